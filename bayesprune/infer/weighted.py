"""Examples that count more or less than once."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from bayesprune.arguments import checked_arguments
from bayesprune.errors import DataError
from bayesprune.infer.likelihoods import Likelihood


class Weighted(Likelihood):
    """Another likelihood whose targets bring a weight: an example of weight 2 counts like the same example twice.

    Targets are floating-point rows ``(weight, target)``, shape ``(B, 1 + D)``: a target of more dimensions is laid out
    flat, a class label is a number (float32 holds those below 2²⁴ exactly). The network's ``num_data`` stays the number
    of examples: let the weights average 1 over the data set, so that they shift the emphasis among the examples and not
    that between data and prior. Predictions are those of ``base``.

    Args:
        base: The likelihood of the targets alone.
    """

    @checked_arguments
    def __init__(self, base: Likelihood):
        super().__init__()
        self.base = base

    def split(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, shape ``(B,)``, and the targets as ``base`` takes them."""
        return y[:, 0], self.base.observed(y[:, 1:].reshape(len(y), *self.base.target_shape(outputs)))

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """The law of the rows, whose log probability counts ``weight`` times; drawn rows have weight 1."""
        return WeightedRows(self.base.distribution(outputs), self.base)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The negative log-likelihoods of ``base``, times the weights."""
        weights, targets = self.split(outputs, y)
        return weights * self.base.nll(outputs, targets)

    def mean(self, outputs: Tensor) -> Tensor:
        """The mean prediction of ``base``."""
        return self.base.mean(outputs)

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """A weight, and the entries of a target."""
        return torch.Size((1 + self.base.target_shape(outputs).numel(),))

    def penalty(self) -> Tensor | float:
        """That of ``base``."""
        return self.base.penalty()

    @property
    def learned_noise(self) -> Tensor | None:
        """That of ``base``."""
        return self.base.learned_noise

    def spend(self, count: float) -> None:
        """As ``base`` does."""
        self.base.spend(count)

    def right(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """That of ``base``, whatever the weights."""
        return self.base.right(outputs, self.split(outputs, y)[1])

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Finite rows of weights that are not negative, and of targets such as ``base`` takes."""
        weights, targets = self.split(outputs, y)
        fits = self.base.possible(outputs, targets).reshape(len(y), -1)
        return torch.cat((weights[:, None] >= 0, fits), 1) & y.isfinite()

    def weights(self, y: Tensor) -> Tensor:
        """The first column."""
        return y[:, 0]

    def settings(self) -> dict[str, Any]:
        """Those of ``base``, and its name."""
        return {"base": type(self.base).__name__, **self.base.settings()}

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Weights must be finite and not negative, targets such as ``base`` takes."""
        if len(outputs) != len(y):
            raise DataError(f"the network gives {len(outputs)} outputs for {len(y)} targets; they must be equally many")
        (columns,) = self.target_shape(outputs)
        if not y.is_floating_point() or y.shape[1:] != (columns,):
            raise DataError(
                f"weighted likelihood: expected floating-point targets of shape (batch, {columns}), the weight of an "
                f"example and then its target, got {y.dtype} of shape {tuple(y.shape)}"
            )
        weights, targets = self.split(outputs, y)
        wrong = ~(weights.isfinite() & (weights >= 0))
        if bool(wrong.any()):
            raise DataError(
                f"weighted likelihood: weights, the first column of the targets, must be finite and not negative, "
                f"found {float(weights[wrong][0])} for example {int(wrong.nonzero()[0])}; leave such examples out, or "
                "give them weight 0"
            )
        if not targets.is_floating_point() and bool((targets.flatten() != y[:, 1:].flatten()).any()):
            raise DataError("weighted likelihood: class labels must be whole numbers; number the classes from 0")
        self.base.check(outputs, targets)


class WeightedRows(dist.TorchDistribution):
    """Rows (weight, target) with the target from another law, whose log probability counts ``weight`` times.

    Args:
        law: The law of the targets.
        likelihood: Where it comes from, which knows the targets' dtype.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, law: dist.TorchDistribution, likelihood: Likelihood):
        self.law, self.likelihood = law, likelihood
        super().__init__(law.batch_shape, torch.Size((1 + law.event_shape.numel(),)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WeightedRows:
        """The same law with another batch shape."""
        return WeightedRows(self.law.expand(batch_shape), self.likelihood)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Rows of weight 1."""
        targets = self.law.sample(sample_shape).to(torch.get_default_dtype())
        flat = targets.reshape(*targets.shape[: targets.dim() - self.law.event_dim], -1)
        return torch.cat((torch.ones_like(flat[..., :1]), flat), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Weight times the target's log probability, nats."""
        targets = value[..., 1:].reshape(*value.shape[:-1], *self.law.event_shape)
        return value[..., 0] * self.law.log_prob(self.likelihood.observed(targets))
