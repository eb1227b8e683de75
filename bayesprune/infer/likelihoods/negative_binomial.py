"""Counts that vary more than their mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from scipy import special
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.infer.likelihoods.counts import CountPrediction, Counts
from bayesprune.infer.likelihoods.gammas import log_rising
from bayesprune.infer.prediction import per_example


@dataclass(frozen=True)
class OverdispersedPrediction(CountPrediction):
    """Posterior predictive of counts: an equal-weight mixture of negative binomials, one a posterior sample.

    Attributes:
        concentration: c; the variance of a count of mean m is m + m²/c.

    Examples:
        >>> means = torch.tensor([[2.0], [2.0]])
        >>> OverdispersedPrediction(means.mean(0), means, 4.0).variance
        tensor([3.])
    """

    concentration: float

    @property
    def aleatoric(self) -> Tensor:
        """Variance of a count whose mean is known, averaged over samples."""
        return (self.samples + self.samples.square() / self.concentration).mean(0)

    def _log_probs(self, y: Tensor) -> Tensor:
        concentration = torch.tensor(self.concentration, dtype=self.samples.dtype, device=self.samples.device)
        return _log_probs(y.to(self.samples), self.samples.log(), concentration)

    def _below(self, counts: Tensor, rates: Tensor) -> Tensor:
        k, m, c = counts.cpu().numpy(), rates.cpu().numpy(), self.concentration
        return torch.from_numpy(special.betainc(c, k + 1, c / (c + m))).to(rates)

    def _bound(self, rates: Tensor, p: float) -> Tensor:
        c, most = self.concentration, rates.amax(0).cpu().numpy()
        return torch.as_tensor(special.nbdtrik(p, c, c / (c + most))).to(rates).ceil() + 1


class NegativeBinomial(Counts):
    """Counts that vary more than their mean: Poisson counts whose rate itself varies by a Gamma law.

    Outputs are log means, shape ``(B,)`` or ``(B, D)``, and targets have the same shape. The concentration c is
    learned: the variance of a count of mean m is m + m²/c. A point estimate of log c; c^(−½) has a half-normal prior of
    scale 1 (the prior that Stan's developers recommend), which leans towards no excess.

    Args:
        concentration: c at the start.

    Attributes:
        log_concentration: log c, a parameter.

    Raises:
        ConfigError: for a concentration that is not positive and finite.

    Examples:
        >>> NegativeBinomial(1.0).nll(torch.zeros(1, 1), torch.zeros(1, 1)).detach()  # mean 1: P(0) = 1/2
        tensor([0.6931])
    """

    name = "negative_binomial"

    @checked_arguments
    def __init__(self, concentration: float = 10.0):
        super().__init__()
        self.concentration = real("negative_binomial likelihood: concentration", concentration, 0)
        self.log_concentration = nn.Parameter(torch.tensor(math.log(self.concentration)))

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """A Poisson law whose rate is Gamma(c, c/mean), independent over the dimensions of a target."""
        concentration = self.log_concentration.exp().expand(outputs.shape)
        return dist.GammaPoisson(concentration, concentration * (-outputs).exp()).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """−log probability, summed over the dimensions of a target; with gradient in log c."""
        dtype = torch.promote_types(outputs.dtype, torch.float32)  # shorter formats do not hold every count
        return per_example(-_log_probs(y.to(dtype), outputs.to(dtype), self.log_concentration.exp()))

    def summarize(self, outputs: Tensor) -> OverdispersedPrediction:
        """With intervals of counts."""
        samples = self.means(outputs)
        return OverdispersedPrediction(samples.mean(0), samples, float(self.log_concentration.detach().exp()))

    def penalty(self) -> Tensor:
        """Minus the prior log density of log c, nats for the whole data set: c^(−1)/2 + ½ log c and a constant."""
        constant = math.log(2) + 0.5 * math.log(math.pi / 2)
        return 0.5 * (-self.log_concentration).exp() + 0.5 * self.log_concentration + constant


def _log_probs(y: Tensor, log_mean: Tensor, concentration: Tensor) -> Tensor:
    """Log C(y + c − 1, y) + c log(c/(c + m)) + y log(m/(c + m)).

    Args:
        y: Counts.
        log_mean: log m.
        concentration: c.
    """
    c, odds = concentration, log_mean - concentration.log()
    certain = (y + c) * torch.logaddexp(odds, torch.zeros_like(odds))  # (y + c) log(1 + m/c)
    return log_rising(c, y) - torch.lgamma(y + 1) + torch.where(y == 0, 0.0, y * log_mean) - certain
