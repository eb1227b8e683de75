"""What every likelihood can say of a network's outputs and of targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.errors import DataError
from bayesprune.infer.prediction import Prediction


class Likelihood(nn.Module, ABC):
    """p(y | outputs), one factor an example.

    A module like any other: parameters of its own, such as a noise scale, move to devices, are saved and are trained
    with the network that it belongs to.

    A module of this package that defines one with a ``name`` is found by being there, and one of a user's own is given
    as an object.

    Attributes:
        name: By which a `BayesianNet` can be asked for it; ``None`` for one that is given as an object.

    Examples:
        >>> class Laplace(Likelihood):
        ...     def distribution(self, outputs):
        ...         return dist.Laplace(outputs, 1.0).to_event(outputs.dim() - 1)
        ...     def nll(self, outputs, y):
        ...         return -self.distribution(outputs).log_prob(y)
        ...     def mean(self, outputs):
        ...         return outputs
        >>> Laplace().nll(torch.zeros(1, 1), torch.ones(1, 1))  # 1 + log 2
        tensor([1.6931])
    """

    name: ClassVar[str | None] = None

    @abstractmethod
    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """The law of the targets, batch shape ``(B,)``."""

    @abstractmethod
    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """−log p(y | outputs), shape ``(B,)``, nats; the same numbers as ``distribution``, by the shortest way.

        Args:
            outputs: The network's outputs, shape ``(B, ...)``.
            y: The targets, first dimension B.
        """

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """The mean prediction: class probabilities, success probabilities or means, shaped as ``outputs``."""

    def summarize(self, outputs: Tensor) -> Prediction:
        """What posterior samples of the outputs predict; by default mean and samples.

        Args:
            outputs: The network's outputs for each posterior sample, shape ``(num_samples, B, ...)``.
        """
        samples = self.means(outputs)
        return Prediction(samples.mean(0), samples)

    def means(self, outputs: Tensor) -> Tensor:
        """The mean predictions of each posterior sample, shape ``(num_samples, B, ...)``."""
        return torch.stack([self.mean(sample) for sample in outputs])

    def observed(self, y: Tensor) -> Tensor:
        """Targets in the dtype that ``distribution`` takes."""
        return y

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """Shape of one target, for outputs of shape ``(B, ...)``; by default that of one output."""
        return outputs.shape[1:]

    def penalty(self) -> Tensor | float:
        """Minus the log prior density of the likelihood's own parameters, nats for the whole data set; 0 without any.

        The negative ELBO, in nats per example, holds it over N, the number of training examples. `correction` is in it.
        """
        return 0.0

    def correction(self) -> Tensor | float:
        """The part of `penalty` that is no density, but what `set_fitted_parameters` asked for; by default 0."""
        return 0.0

    @property
    def learned_noise(self) -> Tensor | None:
        """Standard deviation of the noise, broadcastable to one target, if it is learned; ``None`` if it is not."""
        return None

    def set_fitted_parameters(self, count: float) -> None:
        """Let ``count`` residuals say nothing of noise that is learned, see `BayesianNet.uncounted_parameters`."""

    def take_units(self, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """From now on targets come in the units of ``y``, those of a data set; own scales follow, in place.

        Args:
            y: Targets, first dimension N.
            weights: How much each of them counts, shape ``(N,)``; ``None`` for all alike.

        Returns:
            Location and scale of each entry of an output, from a network that gives standardised ones (`layers.Units`);
            ``None`` where outputs have no units, as logits have none. By default that.
        """
        return None

    def settings(self) -> dict[str, Any]:
        """The plain values that tell this likelihood from another of its class; by default its public attributes."""
        return {name: value for name, value in vars(self).items() if name != "training" and not name.startswith("_")}

    def right(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Fraction of the entries of each target that are classified right, shape ``(B,)``; ``None`` for reals.

        Args:
            outputs: The network's outputs, shape ``(B, ...)``.
            y: The targets, first dimension B.
        """
        return None

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Which entries of the targets can be, bool, shape of ``y``; unlike `check` it does not wait for the device.

        Args:
            outputs: The network's outputs, shape ``(B, ...)``.
            y: The targets, first dimension B.
        """
        return y.isfinite()

    def check_shape(self, outputs: Tensor, y: Tensor) -> None:
        """Raise `DataError` unless targets have the shape that these outputs ask for; no value is read.

        Args:
            outputs: The network's outputs, shape ``(B, ...)``.
            y: The targets, first dimension B.
        """
        expected = (len(outputs), *self.target_shape(outputs))
        if y.shape != expected:
            raise DataError(
                f"targets have shape {tuple(y.shape)}; the network's outputs, of shape {tuple(outputs.shape)}, ask for "
                f"{expected}; reshape them (y[:, None] has one target an example, y.squeeze(1) one label)"
            )

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Raise `DataError` if targets and outputs do not fit together. Reads values: not for the training step.

        Args:
            outputs: The network's outputs, shape ``(B, ...)``.
            y: The targets, first dimension B.
        """
        if len(outputs) != len(y):
            raise DataError(f"the network gives {len(outputs)} outputs for {len(y)} targets; they must be equally many")
        wrong = ~y.isfinite()
        if bool(wrong.any()):
            raise DataError(
                f"the targets hold {int(wrong.sum())} NaN or infinite values, the first for example "
                f"{int(wrong.nonzero()[0, 0])}; remove or impute them"
            )


def fraction_right(hits: Tensor) -> Tensor:
    """Means over all dimensions but the first, shape ``(B,)``; ``hits`` are bool."""
    return hits.float().flatten(1).mean(1) if hits.dim() > 1 else hits.float()


def check_same_shape(name: str, outputs: Tensor, y: Tensor) -> None:
    """Raise `DataError` unless targets have the shape of the outputs (no silent broadcasting).

    Args:
        name: Of the likelihood.
        outputs: The network's outputs.
        y: The targets.
    """
    if outputs.shape != y.shape:
        raise DataError(
            f"{name} likelihood: targets have shape {tuple(y.shape)}, the network's outputs {tuple(outputs.shape)}; "
            "reshape the targets (for one target an example: y[:, None])"
        )
