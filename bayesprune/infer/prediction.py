"""What posterior samples of a network's outputs say about new targets, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.checked import real
from bayesprune.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """Posterior predictive summary.

    Attributes:
        mean: Class probabilities, success probabilities or means, averaged over samples; shape of the network's
            outputs.
        samples: The same for each posterior sample, shape ``(num_samples, ...)``.

    Examples:
        >>> samples = torch.tensor([[0.0], [1.0]])
        >>> Prediction(samples.mean(0), samples).mean
        tensor([0.5000])
    """

    mean: Tensor
    samples: Tensor


@dataclass(frozen=True)
class ClassPrediction(Prediction):
    """Posterior predictive of class labels, shape ``(B, ...)``, or of binary targets, shape ``(B,)`` or ``(B, D)``.

    Attributes:
        log_probs: Log probabilities of the values 0 to K − 1 of each target entry under each posterior sample, shape
            ``(num_samples, B, ..., K)``; for binary targets ``(num_samples, B, 2)`` or ``(num_samples, B, D, 2)``.

    Examples:
        Two samples, each sure of another class: all uncertainty is what more data could resolve, log 2 nats.

        >>> probs = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> prediction = ClassPrediction(probs.mean(0), probs, probs.log())
        >>> prediction.entropy, prediction.mutual_information
        (tensor([0.6931]), tensor([0.6931]))
    """

    log_probs: Tensor

    @property
    def entropy(self) -> Tensor:
        """Entropy of the mean prediction, nats, shape ``(B,)``; of several entries the sum of their entropies.

        It is the total uncertainty: what is left to the targets themselves, and `mutual_information`.
        """
        return per_example(_entropy(_log_mean_exp(self.log_probs)))

    @property
    def mutual_information(self) -> Tensor:
        """Between a target and the network that predicts it, nats, shape ``(B,)``: what more data could resolve.

        Entropy of the mean prediction minus the mean entropy of the samples' predictions, not below 0 (Houlsby et al.
        2011, eq. 2); summed over several entries.
        """
        return (self.entropy - per_example(_entropy(self.log_probs).mean(0))).clamp(min=0)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log of the probability of each target, averaged over samples, shape ``(B,)``, nats.

        Args:
            y: Labels, shape ``(B, ...)``, or binary targets in the shape of the network's outputs; any dtype.

        Raises:
            DataError: for targets of another shape, or that are no whole numbers in [0, K).
        """
        _check_targets(y, self.log_probs.shape[1:-1])
        index, values = y.long(), self.log_probs.shape[-1]
        if bool(((index != y) | (index < 0) | (index >= values)).any()):
            raise DataError(f"log_prob: targets must be whole numbers from 0 to {values - 1}")
        index = index[..., None].expand(len(self.log_probs), *index.shape, 1)
        per_entry = self.log_probs.gather(-1, index).squeeze(-1)
        return _log_mean_exp(per_entry.flatten(2).sum(2) if per_entry.dim() > 2 else per_entry)


@dataclass(frozen=True)
class RealPrediction(Prediction):
    """Posterior predictive of real targets: an equal-weight mixture of normal distributions, one a posterior sample.

    Noise of another law, symmetric around 0, is a subclass.

    Attributes:
        noise_scale: Scale of the noise, here its standard deviation, broadcastable to ``samples``.

    Examples:
        >>> samples = torch.tensor([[1.0], [3.0]])
        >>> prediction = RealPrediction(samples.mean(0), samples, torch.tensor(0.5))
        >>> prediction.epistemic, prediction.aleatoric
        (tensor([1.]), tensor([0.2500]))
    """

    noise_scale: Tensor

    @property
    def epistemic(self) -> Tensor:
        """Variance of the samples' means, in the shape of ``mean``: what more data could resolve."""
        return self.samples.var(0, correction=0)

    @property
    def aleatoric(self) -> Tensor:
        """Variance of the noise, averaged over samples, in the shape of ``mean``."""
        return (self._variance() * self.noise_scale.square()).expand(self.samples.shape).mean(0)

    @property
    def variance(self) -> Tensor:
        """Variance of a target, ``epistemic + aleatoric``: exactly that of the mixture."""
        return self.epistemic + self.aleatoric

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Central predictive interval of each target entry, both bounds in the shape of ``mean``.

        The bounds are the (1 − level)/2 and (1 + level)/2 quantiles of the mixture, by bisection of its distribution
        function down to the resolution of the number format.

        Args:
            level: Probability that a target lies within, in (0, 1).

        Raises:
            ConfigError: for a level outside (0, 1).
        """
        level = real("interval: level", level, 0, 1)
        deviations, tail = self.samples - self.mean, (1 - level) / 2
        low = self._lower_quantile(deviations, tail)
        high = -self._lower_quantile(-deviations, tail)  # in the lower tail small numbers are exact
        return self.mean + low, self.mean + high

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density of each target under the mixture, joint over its entries, shape ``(B,)``, nats.

        Args:
            y: Targets in the shape of ``mean``.

        Raises:
            DataError: for targets of another shape.
        """
        _check_targets(y, self.mean.shape)
        standardised = (y - self.samples) / self.noise_scale
        per_entry = self._log_density(standardised) - self.noise_scale.log()
        return _log_mean_exp(per_entry.flatten(2).sum(2) if per_entry.dim() > 2 else per_entry)

    # the law of noise of scale 1 -----------------------------------------------------------------------------------

    def _variance(self) -> Tensor | float:
        """Its variance."""
        return 1.0

    def _log_density(self, z: Tensor) -> Tensor:
        """Its log density."""
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def _below(self, z: Tensor) -> Tensor:
        """Its distribution function."""
        return torch.special.ndtr(z)

    def _quantile(self, p: Tensor) -> Tensor:
        """The inverse of its distribution function."""
        return torch.special.ndtri(p)

    def _lower_quantile(self, means: Tensor, p: float) -> Tensor:
        """The p-quantile of mixtures of the noise around ``means`` over the first dimension, by bisection."""
        quantiles = means + self.noise_scale * self._quantile(torch.as_tensor(p, dtype=means.dtype)).to(means)
        low, high = quantiles.amin(0), quantiles.amax(0)  # the mixture's quantile is between those of its components
        for _ in range(torch.finfo(means.dtype).bits):
            middle = 0.5 * (low + high)
            below = self._below((middle - means) / self.noise_scale).mean(0) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)


def per_example(per_entry: Tensor) -> Tensor:
    """Sums over all dimensions but the first, shape ``(B,)``."""
    return per_entry.flatten(1).sum(1) if per_entry.dim() > 1 else per_entry


def _log_mean_exp(values: Tensor) -> Tensor:
    """Log of the mean over the first dimension of e to the values."""
    return values.logsumexp(0) - math.log(len(values))


def _entropy(log_probs: Tensor) -> Tensor:
    """Entropies of distributions over the last dimension, nats; 0 log 0 is 0."""
    return torch.special.entr(log_probs.exp()).sum(-1)


def _check_targets(y: Tensor, shape: torch.Size) -> None:
    if y.shape != shape:
        raise DataError(f"log_prob: expected targets of shape {tuple(shape)}, got {tuple(y.shape)}")
