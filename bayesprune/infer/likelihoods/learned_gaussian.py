"""Regression with noise whose scale is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import DataError
from bayesprune.infer.likelihoods.gaussian import Gaussian
from bayesprune.infer.prediction import per_example
from bayesprune.layers import moments


class LearnedGaussian(Gaussian):
    """Real targets with unknown noise: `Gaussian`, its scale σ a point estimate under a conjugate prior.

    The precision σ⁻² ~ Gamma(ν/2, rate ν s²/2): the prior weighs as much as ν more targets whose residuals have the
    mean square s². The estimate is the mode of log σ, which the prior alone puts at log s. For given outputs, with R
    the sum of the squares of n residuals, it is σ² = (R + ν s²)/(n + ν): above 0 even where a network fits its data
    exactly.

    Args:
        scale: s, the prior's guess of the noise scale, from which learning starts; for standardised targets, 1 is the
            scale of all that they vary.
        shape: Shape of one target, for a noise scale of its own for each entry; ``()`` for one scale in all.
        prior_count: ν, how many residuals the guess counts for.

    Attributes:
        log_scale: log σ in units of ``unit``, a parameter of shape ``shape``.
        unit: What the scale is measured in: 1, or the targets' standard deviation, see `take_units`.
        fitted_parameters: How many residuals say nothing of the noise, because a fit has taken as many parameters.

    Raises:
        ConfigError: for a scale or a count that is not positive and finite.

    Examples:
        >>> likelihood = LearnedGaussian(2.0)
        >>> torch.isclose(likelihood.noise_scale, torch.tensor(2.0)), likelihood.penalty().requires_grad
        (tensor(True), True)
    """

    name = "learned_gaussian"

    @checked_arguments
    def __init__(self, scale: float = 1.0, shape: Sequence[int] = (), prior_count: float = 1.0):
        super().__init__(scale)
        self.shape = tuple(whole("gaussian likelihood: each entry of shape", size) for size in shape)
        hint = "so many residuals the guess of the noise scale counts for"
        self.prior_count = real("gaussian likelihood: prior_count", prior_count, 0, hint=hint)
        self.log_scale = nn.Parameter(torch.full(self.shape, math.log(self.scale)))
        self.register_buffer("fitted_parameters", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    fitted_parameters: Tensor
    unit: Tensor

    @property
    def noise_scale(self) -> Tensor:
        """σ as it is now, broadcastable to one target; with gradient in log σ."""
        return self.unit * self.log_scale.exp()

    @property
    def learned_noise(self) -> Tensor:
        """σ, without gradient."""
        return self.noise_scale.detach()

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """½((y − outputs)/σ)² + log(σ √(2π)), summed over the dimensions of a target; with gradient in log σ."""
        standardised = (y - outputs) * ((-self.log_scale).exp() / self.unit)
        log_scale = self.log_scale + self.unit.log()
        return per_example(0.5 * standardised.square() + log_scale + 0.5 * math.log(2 * math.pi))

    def take_units(self, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the targets; the latter is the unit of the scale and of its prior.

        Args:
            y: Targets, first dimension N.
            weights: How much each of them counts; ``None`` for all alike.
        """
        location, scale = moments(y, weights)
        self.unit = scale.to(self.log_scale)
        return location, scale

    def set_fitted_parameters(self, count: float) -> None:
        """With one scale σ² becomes (R + ν s²)/(n + ν − count), with several each is told of its part."""
        self.fitted_parameters.fill_(count)

    def penalty(self) -> Tensor:
        """Minus the prior log density of log σ, summed over scales, nats for the whole data set.

        With a = ν/2 and d = log(σ/s), σ in units of ``unit``: a(2d + e^(−2d)) + log Γ(a) − a log a − log 2 for each
        scale, and the `correction`.
        """
        a = self.prior_count / 2
        d = self.log_scale - math.log(self.scale)
        constant = math.lgamma(a) - a * math.log(a) - math.log(2)
        return (a * (2 * d + (-2 * d).exp()) + constant).sum() + self.correction()

    def correction(self) -> Tensor:
        """−``fitted_parameters`` times the mean of log σ."""
        return -self.fitted_parameters * self.log_scale.mean()

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must have the outputs' shape, and the scales that of one target if there is one an entry."""
        super().check(outputs, y)
        if self.shape and self.shape != tuple(outputs.shape[1:]):
            raise DataError(
                f"gaussian likelihood: the noise scales have shape {self.shape}, but a target has shape "
                f"{tuple(outputs.shape[1:])}; make them equal, or leave out shape= for one scale in all"
            )
