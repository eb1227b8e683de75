"""What a network's outputs say about the targets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.checked import real
from bayesprune.errors import ConfigError, DataError


class Likelihood(nn.Module, ABC):
    """p(y | outputs), one factor an example.

    A module like any other: parameters of its own, such as a noise scale, move to devices, are saved and are trained
    with the network that it belongs to.
    """

    @abstractmethod
    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """The law of the targets, batch shape ``(B,)``."""

    @abstractmethod
    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """−log p(y | outputs), shape ``(B,)``, nats; the same numbers as ``distribution``, by the shortest way."""

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """The mean prediction: class probabilities, success probabilities or means, shaped as ``outputs``."""

    def observed(self, y: Tensor) -> Tensor:
        """Targets in the dtype that ``distribution`` takes."""
        return y

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """Shape of one target, for outputs of shape ``(B, ...)``; by default that of one output."""
        return outputs.shape[1:]

    def penalty(self) -> Tensor | float:
        """Minus the log prior density of the likelihood's own parameters, nats for the whole data set; 0 without any.

        The negative ELBO, in nats per example, holds it over N, the number of training examples.
        """
        return 0.0

    @property
    def learned_noise(self) -> Tensor | None:
        """Standard deviation of the noise, broadcastable to one target, if it is learned; ``None`` if it is not."""
        return None

    def spend(self, count: float) -> None:
        """Let ``count`` residuals say nothing of noise that is learned, see `BayesianNet.uncounted_parameters`."""

    def weights(self, y: Tensor) -> Tensor | None:
        """How much each example counts, shape ``(B,)``; ``None`` for all alike."""
        return None

    def settings(self) -> dict[str, Any]:
        """The plain values that tell this likelihood from another of its class; by default its public attributes."""
        return {name: value for name, value in vars(self).items() if name != "training" and not name.startswith("_")}

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Raise `DataError` if targets and outputs do not fit together. Reads values: not for the training step."""
        if len(outputs) != len(y):
            raise DataError(f"the network gives {len(outputs)} outputs for {len(y)} targets; they must be equally many")


class SmoothedCategorical(dist.Categorical):
    """Categorical whose log probability is averaged over labels that are replaced by a uniform one with probability ε.

    log p̃(y) = (1 − ε) log p(y) + (ε/K) Σ_k log p(k) (Szegedy et al. 2016). Samples come from p itself.
    """

    def __init__(self, logits: Tensor, smoothing: float, validate_args: bool | None = None):
        self.smoothing = smoothing
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SmoothedCategorical:
        """The same law with another batch shape."""
        wider = super().expand(batch_shape, self._get_checked_instance(SmoothedCategorical, _instance))
        wider.smoothing = self.smoothing
        return wider

    def log_prob(self, value: Tensor) -> Tensor:
        """The averaged log probability log p̃(value), nats."""
        return (1 - self.smoothing) * super().log_prob(value) + self.smoothing * self.logits.mean(-1)


class Categorical(Likelihood):
    """Class labels; outputs are logits, shape ``(B, K)``, targets integers in [0, K), shape ``(B,)``.

    Args:
        label_smoothing: ε; with ε > 0 the log-likelihood is averaged over labels that are wrong (uniform) with
            probability ε. It keeps the fitted log-likelihood of a flexible network finite, so that the price of a
            structure keeps its weight until the end of training.

    Raises:
        ConfigError: for ε outside [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = real("categorical likelihood: label_smoothing", label_smoothing, 0, 1, "[)")

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Categorical(softmax(outputs)), smoothed if asked for."""
        if self.label_smoothing:
            return SmoothedCategorical(outputs, self.label_smoothing)
        return dist.Categorical(logits=outputs)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of each example."""
        return F.cross_entropy(outputs, y, reduction="none", label_smoothing=self.label_smoothing)

    def mean(self, outputs: Tensor) -> Tensor:
        """Class probabilities."""
        return outputs.softmax(-1)

    def observed(self, y: Tensor) -> Tensor:
        """Labels as integers."""
        return y.long() if y.is_floating_point() else y

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """One label an example."""
        return torch.Size()

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Labels must be integers in [0, K)."""
        super().check(outputs, y)
        if outputs.dim() != 2:
            raise DataError(
                f"categorical likelihood: expected outputs of shape (batch, classes), got {tuple(outputs.shape)}"
            )
        if y.dtype not in (torch.int64, torch.uint8) or y.dim() != 1:
            raise DataError(
                f"categorical likelihood: expected integer labels of shape (batch,), got {y.dtype} of shape "
                f"{tuple(y.shape)}"
            )
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= outputs.shape[1]:
            raise DataError(
                f"categorical likelihood: labels run from {low} to {high}, but the network has "
                f"{outputs.shape[1]} outputs, so they must be in [0, {outputs.shape[1] - 1}]; give "
                "the network as many outputs as there are classes"
            )


class Gaussian(Likelihood):
    """Real targets with known noise; outputs are means, shape ``(B,)`` or ``(B, D)``, and targets have the same shape.

    Args:
        scale: Standard deviation of the noise.
    """

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = real("gaussian likelihood: the noise scale", scale, 0)

    @property
    def noise_scale(self) -> Tensor | float:
        """The standard deviation of the noise, one number or one an entry of a target."""
        return self.scale

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Normal(outputs, noise_scale), independent over the dimensions of a target."""
        return dist.Normal(outputs, self.noise_scale).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """½((y − outputs)/scale)² + log(scale √(2π)), summed over the dimensions of a target."""
        per_entry = 0.5 * ((y - outputs) / self.scale).square() + math.log(self.scale * math.sqrt(2 * math.pi))
        return per_example(per_entry)

    def mean(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must have the outputs' shape (no silent broadcasting)."""
        super().check(outputs, y)
        _check_same_shape("gaussian", outputs, y)


class Bernoulli(Likelihood):
    """Binary targets 0 or 1; outputs are logits, shape ``(B,)`` or ``(B, D)``, and targets have the same shape."""

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Bernoulli(sigmoid(outputs)), independent over the dimensions of a target."""
        return dist.Bernoulli(logits=outputs).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy, summed over the dimensions of a target."""
        per_entry = F.binary_cross_entropy_with_logits(outputs, y.to(outputs.dtype), reduction="none")
        return per_example(per_entry)

    def observed(self, y: Tensor) -> Tensor:
        """Targets as floating-point numbers."""
        return y.to(torch.get_default_dtype()) if not y.is_floating_point() else y

    def mean(self, outputs: Tensor) -> Tensor:
        """Success probabilities."""
        return outputs.sigmoid()

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must be 0 or 1, in the outputs' shape."""
        super().check(outputs, y)
        _check_same_shape("bernoulli", outputs, y)
        if not bool(((y == 0) | (y == 1)).all()):
            raise DataError(
                "bernoulli likelihood: targets must be 0 or 1; for several classes use likelihood='categorical'"
            )


def per_example(per_entry: Tensor) -> Tensor:
    """Sums over all dimensions but the first, shape ``(B,)``."""
    return per_entry.flatten(1).sum(1) if per_entry.dim() > 1 else per_entry


def _check_same_shape(name: str, outputs: Tensor, y: Tensor) -> None:
    if outputs.shape != y.shape:
        raise DataError(
            f"{name} likelihood: targets have shape {tuple(y.shape)}, the network's outputs {tuple(outputs.shape)}; "
            "reshape the targets (for one target an example: y[:, None])"
        )


LIKELIHOODS = {"bernoulli": Bernoulli, "categorical": Categorical, "gaussian": Gaussian}


def get_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """The likelihood of that name, or the object itself.

    Raises:
        ConfigError: for an unknown name, or a likelihood whose ``__init__`` leaves out that of `Likelihood`.
    """
    if isinstance(likelihood, Likelihood):
        if "_modules" not in vars(likelihood):
            raise ConfigError(
                f"likelihood {type(likelihood).__name__}: its __init__ must begin with super().__init__(), because a "
                "Likelihood is a torch.nn.Module"
            )
        return likelihood
    if likelihood not in LIKELIHOODS:
        raise ConfigError(
            f"unknown likelihood {likelihood!r}; known are {', '.join(sorted(LIKELIHOODS))}, or pass a "
            "Likelihood object"
        )
    return LIKELIHOODS[likelihood]()
