"""What a network's outputs say about the targets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.checked import real, shown
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer.laws import SmoothedCategorical, WeighedCategorical


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

    def right(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Fraction of the entries of each target that are classified right, shape ``(B,)``; ``None`` for reals."""
        return None

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Which entries of the targets can be, bool, shape of ``y``; unlike `check` it does not wait for the device."""
        return y.isfinite()

    def check_shape(self, outputs: Tensor, y: Tensor) -> None:
        """Raise `DataError` unless targets have the shape that these outputs ask for; no value is read."""
        expected = (len(outputs), *self.target_shape(outputs))
        if y.shape != expected:
            raise DataError(
                f"targets have shape {tuple(y.shape)}; the network's outputs, of shape {tuple(outputs.shape)}, ask for "
                f"{expected}; reshape them (y[:, None] has one target an example, y.squeeze(1) one label)"
            )

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Raise `DataError` if targets and outputs do not fit together. Reads values: not for the training step."""
        if len(outputs) != len(y):
            raise DataError(f"the network gives {len(outputs)} outputs for {len(y)} targets; they must be equally many")
        wrong = ~y.isfinite()
        if bool(wrong.any()):
            raise DataError(
                f"the targets hold {int(wrong.sum())} NaN or infinite values, the first for example "
                f"{int(wrong.nonzero()[0, 0])}; remove or impute them"
            )


class Categorical(Likelihood):
    """Class labels; outputs are logits, shape ``(B, K)``, targets integers in [0, K), shape ``(B,)``.

    Images and sequences have a label an entry: outputs ``(B, K, ...)``, targets ``(B, ...)``. The entries of an example
    are independent given the outputs, so its log-likelihood is their sum, in nats per example; accuracy is the fraction
    of entries.

    Args:
        label_smoothing: ε; with ε > 0 the log-likelihood is averaged over labels that are wrong (uniform) with
            probability ε. It keeps the fitted log-likelihood of a flexible network finite, so that the price of a
            structure keeps its weight until the end of training.
        class_weight: How much a label of each class counts, K numbers, finite and not negative; ``None`` for all alike.
            Losses are sums and means over examples, not divided by the weights in a batch: they are those of torch's
            ``cross_entropy(..., weight=class_weight, reduction="none")`` (without smoothing). Let the weights average 1
            over the labels of the data set, as N/(K N_k) does for N_k examples of class k, so that they shift the
            emphasis among the classes and not that between data and prior. Predictions know no weights.

    Raises:
        ConfigError: for ε outside [0, 1), and weights that cannot be.
    """

    class_weight: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, *, class_weight: Tensor | Sequence[float] | None = None):
        super().__init__()
        self.label_smoothing = real("categorical likelihood: label_smoothing", label_smoothing, 0, 1, "[)")
        try:
            weights = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.get_default_dtype())
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"categorical likelihood: class_weight must hold one number a class, got {shown(class_weight)}"
            ) from error
        if weights is not None and not (weights.dim() == 1 and _are_weights(weights)):
            raise ConfigError(
                "categorical likelihood: class_weight must hold one number a class, finite, not negative and not all "
                f"0, got {weights.tolist()}"
            )
        self.register_buffer("class_weight", weights, persistent=False)

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Categorical(softmax(outputs)), smoothed and weighted if asked for, independent over the entries."""
        logits = outputs.movedim(1, -1)
        if self.class_weight is not None:
            law = WeighedCategorical(logits, self.label_smoothing, self.class_weight)
        elif self.label_smoothing:
            law = SmoothedCategorical(logits, self.label_smoothing)
        else:
            law = dist.Categorical(logits=logits)
        return law.to_event(outputs.dim() - 2)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy times the weight of the class, summed over the entries of each example."""
        y = y.long()
        per_entry = F.cross_entropy(outputs, y, reduction="none", label_smoothing=self.label_smoothing)
        if self.class_weight is not None:
            per_entry = self.class_weight[y] * per_entry
        return per_example(per_entry)

    def mean(self, outputs: Tensor) -> Tensor:
        """Class probabilities, over dimension 1."""
        return outputs.softmax(1)

    def observed(self, y: Tensor) -> Tensor:
        """Labels as integers."""
        return y.long()

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """One label an example, or one an entry."""
        return outputs.shape[2:]

    def settings(self) -> dict[str, Any]:
        """The smoothing, and weights of classes if there are any."""
        weights = {} if self.class_weight is None else {"class_weight": self.class_weight.tolist()}
        return super().settings() | weights

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whether the most probable class is the label; for several labels an example the fraction that is."""
        return _fraction(outputs.argmax(1) == y)

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Labels in [0, K)."""
        return (y >= 0) & (y < outputs.shape[1])

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Labels must be integers in [0, K)."""
        super().check(outputs, y)
        if outputs.dim() < 2:
            raise DataError(
                f"categorical likelihood: expected outputs of shape (batch, classes), got {tuple(outputs.shape)}"
            )
        expected = (len(y), *outputs.shape[2:])
        if y.is_floating_point() or y.is_complex() or y.shape != expected:
            wanted = ", ".join(["batch", *map(str, expected[1:])]) + ("," if len(expected) == 1 else "")
            raise DataError(
                f"categorical likelihood: expected integer labels of shape ({wanted}), got {y.dtype} of shape "
                f"{tuple(y.shape)} for outputs of shape {tuple(outputs.shape)}, whose dimension 1 are the classes; try "
                "y.long(), y.squeeze(1) or, of one-hot labels, y.argmax(1)"
            )
        if self.class_weight is not None and len(self.class_weight) != outputs.shape[1]:
            raise DataError(
                f"categorical likelihood: class_weight has {len(self.class_weight)} numbers, but the network has "
                f"{outputs.shape[1]} outputs; give one a class"
            )
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= outputs.shape[1]:
            raise DataError(
                f"categorical likelihood: labels run from {low} to {high}, but the network has "
                f"{outputs.shape[1]} outputs, so they must be in [0, {outputs.shape[1] - 1}]; give "
                "the network as many outputs as there are classes (with one output take likelihood='bernoulli'), and "
                "leave out examples without a label"
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

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Fraction of the entries of each target that are on the right side of probability ½."""
        return _fraction((outputs > 0) == (y > 0.5))

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Zeros and ones."""
        return (y == 0) | (y == 1)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must be 0 or 1, in the outputs' shape."""
        super().check(outputs, y)
        _check_same_shape("bernoulli", outputs, y)
        if not bool(self.possible(outputs, y).all()):
            raise DataError(
                "bernoulli likelihood: targets must be 0 or 1; for several classes use likelihood='categorical'"
            )


def per_example(per_entry: Tensor) -> Tensor:
    """Sums over all dimensions but the first, shape ``(B,)``."""
    return per_entry.flatten(1).sum(1) if per_entry.dim() > 1 else per_entry


def _fraction(hits: Tensor) -> Tensor:
    """Means over all dimensions but the first, shape ``(B,)``."""
    return hits.float().flatten(1).mean(1) if hits.dim() > 1 else hits.float()


def _are_weights(weights: Tensor) -> bool:
    return bool((weights.isfinite() & (weights >= 0)).all()) and bool(weights.any())


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
