"""Regression with noise of heavy tails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from scipy import special
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.infer.likelihoods.gammas import log_rising
from bayesprune.infer.likelihoods.learned_gaussian import LearnedGaussian
from bayesprune.infer.prediction import RealPrediction, per_example

RATE = 0.1
"""Of the prior of the degrees of freedom, Gamma(2, 0.1): mean 20, little below 1 (Juárez & Steel 2010, section 3)."""


@dataclass(frozen=True)
class StudentPrediction(RealPrediction):
    """Posterior predictive of real targets: an equal-weight mixture of Student's t, one a posterior sample.

    Attributes:
        degrees: Degrees of freedom.

    Examples:
        >>> samples = torch.zeros(1, 1)
        >>> StudentPrediction(samples[0], samples, torch.tensor(1.0), 1.0).interval(0.5)  # quartiles of Cauchy's law
        (tensor([-1.]), tensor([1.]))
    """

    degrees: float

    def _variance(self) -> Tensor | float:
        return self.degrees / (self.degrees - 2) if self.degrees > 2 else math.inf

    def _log_density(self, z: Tensor) -> Tensor:
        return _log_density(z, torch.tensor(self.degrees).to(z))

    def _below(self, z: Tensor) -> Tensor:
        return torch.from_numpy(special.stdtr(self.degrees, z.detach().double().cpu().numpy())).to(z)

    def _quantile(self, p: Tensor) -> Tensor:
        return torch.as_tensor(special.stdtrit(self.degrees, float(p)))


class StudentT(LearnedGaussian):
    """Real targets with noise of heavy tails: Student's t, its scale σ and its degrees of freedom ν learned.

    An outlier pulls the fit by no more than a bounded amount. σ has the prior of `LearnedGaussian`, and ν ~
    Gamma(2, 0.1); both are point estimates, at the modes of their logs.

    Args:
        scale: The prior's guess of σ, as for `LearnedGaussian`.
        degrees: ν at the start.
        shape: Shape of one target, for a scale of its own for each entry.
        prior_count: How many residuals the guess of σ counts for.

    Attributes:
        log_degrees: log ν, a parameter.

    Raises:
        ConfigError: for numbers that are not positive and finite.

    Examples:
        >>> StudentT(degrees=1.0).nll(torch.zeros(1, 1), torch.ones(1, 1)).detach()  # log 2 pi, Cauchy's law
        tensor([1.8379])
    """

    name = "student_t"

    @checked_arguments
    def __init__(self, scale: float = 1.0, degrees: float = 10.0, shape: Sequence[int] = (), prior_count: float = 1.0):
        super().__init__(scale, shape, prior_count)
        self.degrees = real("student_t likelihood: degrees", degrees, 0)
        self.log_degrees = nn.Parameter(torch.tensor(math.log(self.degrees)))

    @property
    def learned_noise(self) -> Tensor:
        """Of Gaussian noise that would tell as much about the mean: the Fisher information is (ν + 1)/((ν + 3) σ²)."""
        degrees = self.log_degrees.detach().exp()
        return self.noise_scale.detach() * ((degrees + 3) / (degrees + 1)).sqrt()

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """StudentT(ν, outputs, σ), independent over the dimensions of a target."""
        return dist.StudentT(self.log_degrees.exp(), outputs, self.noise_scale).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """−log density, summed over the dimensions of a target; with gradient in log σ and log ν."""
        standardised = (y - outputs) * ((-self.log_scale).exp() / self.unit)
        per_entry = self.log_scale + self.unit.log() - _log_density(standardised, self.log_degrees.exp())
        return per_example(per_entry)

    def summarize(self, outputs: Tensor) -> StudentPrediction:
        """With scale and degrees of freedom of the noise."""
        gaussian = super().summarize(outputs)
        return StudentPrediction(**vars(gaussian), degrees=float(self.log_degrees.detach().exp()))

    def penalty(self) -> Tensor:
        """Minus the prior log density of log σ and of log ν, nats for the whole data set."""
        of_degrees = RATE * self.log_degrees.exp() - 2 * self.log_degrees - 2 * math.log(RATE)
        return super().penalty() + of_degrees


def _log_density(z: Tensor, degrees: Tensor) -> Tensor:
    """Of Student's t with scale 1.

    Args:
        z: Where.
        degrees: ν.
    """
    constant = log_rising(degrees / 2, torch.full_like(degrees, 0.5)) - 0.5 * math.log(2 * math.pi)
    return constant - (degrees + 1) / 2 * torch.log1p(z.square() / degrees)
