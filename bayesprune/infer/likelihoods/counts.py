"""Counts: what all likelihoods of them share, and what they predict."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.checked import real
from bayesprune.errors import DataError
from bayesprune.infer.likelihoods.base import Likelihood, check_same_shape
from bayesprune.infer.prediction import Prediction
from bayesprune.layers import moments


@dataclass(frozen=True)
class CountPrediction(Prediction):
    """Posterior predictive of counts: an equal-weight mixture of Poisson distributions, one a posterior sample.

    Attributes:
        mean: Rates, averaged over samples; shape of the network's outputs.
        samples: The rates of each posterior sample, shape ``(num_samples, ...)``.

    Examples:
        >>> rates = torch.tensor([[1.0], [3.0]])
        >>> prediction = CountPrediction(rates.mean(0), rates)
        >>> prediction.variance, prediction.interval()  # P(0) = 0.21, P(up to 5) = 0.96
        (tensor([3.]), (tensor([0.]), tensor([6.])))
    """

    @property
    def epistemic(self) -> Tensor:
        """Variance of the samples' rates, in the shape of ``mean``: what more data could resolve."""
        return self.samples.var(0, correction=0)

    @property
    def aleatoric(self) -> Tensor:
        """Variance of a count whose rate is known, averaged over samples: the mean itself."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Variance of a count, ``epistemic + aleatoric``: exactly that of the mixture."""
        return self.epistemic + self.aleatoric

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Central predictive interval of each target entry, both bounds counts that belong to it, shaped as ``mean``.

        The bounds are the (1 − level)/2 and (1 + level)/2 quantiles of the mixture; since counts are whole, at least
        ``level`` of it lies within.

        Args:
            level: Probability that a count lies within, in (0, 1).

        Raises:
            ConfigError: for a level outside (0, 1).
        """
        level = real("interval: level", level, 0, 1)
        low, high = (self._quantile(p).to(self.mean) for p in ((1 - level) / 2, (1 + level) / 2))
        return low, high

    def log_prob(self, y: Tensor) -> Tensor:
        """Log probability of each target under the mixture, joint over its entries, shape ``(B,)``, nats.

        Args:
            y: Counts in the shape of ``mean``.

        Raises:
            DataError: for targets of another shape.
        """
        check_same_shape("count", self.mean, y)
        per_entry = self._log_probs(y)
        joint = per_entry.flatten(2).sum(2) if per_entry.dim() > 2 else per_entry
        return joint.logsumexp(0) - math.log(len(joint))

    def _quantile(self, p: float) -> Tensor:
        """The smallest counts whose distribution function is at least p, by bisection, in float64."""
        rates = self.samples.double()
        high = self._bound(rates, p)
        low = torch.full_like(high, -1)
        for _ in range(math.frexp(float(high.max()) + 1)[1]):
            middle = ((low + high) / 2).ceil() + 0.0  # of -1/2 that is -0
            below = self._below(middle.expand_as(rates), rates).mean(0) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    # the law of a count whose rate is known ------------------------------------------------------------------------

    def _log_probs(self, y: Tensor) -> Tensor:
        """Log probability of each entry under each sample."""
        return torch.xlogy(y, self.samples) - self.samples - torch.lgamma(y + 1.0)

    def _below(self, counts: Tensor, rates: Tensor) -> Tensor:
        """Probability of so many counts or fewer, float64."""
        return torch.special.gammaincc(counts + 1, rates)

    def _bound(self, rates: Tensor, p: float) -> Tensor:
        """Counts that are no less than the p-quantile of any sample, by Bernstein's inequality."""
        most, tail = rates.amax(0), -math.log1p(-p)
        return (most + tail / 3 + (tail**2 / 9 + 2 * most * tail).sqrt()).ceil()


class Counts(Likelihood):
    """What all likelihoods of counts share: outputs are log means, and targets whole numbers of the same shape."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Means, e to the outputs."""
        return outputs.exp()

    def observed(self, y: Tensor) -> Tensor:
        """Counts as floating-point numbers."""
        return y if y.is_floating_point() else y.to(torch.get_default_dtype())

    def take_units(self, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """The log of the mean count is where outputs begin; their scale stays as it is, because counts have no unit.

        Args:
            y: Targets, first dimension N.
            weights: How much each of them counts; ``None`` for all alike.

        Raises:
            DataError: for targets that are no counts.
        """
        self._check_counts(y)
        location = (moments(y, weights)[0] + 0.5 / len(y)).log()
        return location, torch.ones_like(location)

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whole numbers, not negative."""
        return y.isfinite() & (y >= 0) & (y == y.floor())

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must be whole numbers, not negative, in the outputs' shape."""
        super().check(outputs, y)
        check_same_shape(str(self.name), outputs, y)
        self._check_counts(y)

    def _check_counts(self, y: Tensor) -> None:
        wrong = ~self.possible(y, y)
        if bool(wrong.any()):
            raise DataError(
                f"{self.name} likelihood: targets must be counts 0, 1, 2 and so on, found {y[wrong][0].item()}; for "
                "real numbers use a likelihood of reals, 'learned_gaussian'"
            )
