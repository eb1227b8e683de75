"""The flattening hyper-prior on inclusion probabilities, accurate from log γ = 1e-6 to 1e5.

With L = log γ the density is p(π | γ) = (γ − 1) / (L · (1 + (γ − 1) π)) on [0, 1] (Guenter & Sideris 2022,
arXiv 2205.04650; 2024, arXiv 2406.04549). γ overflows from L = 89 (float32) and L = 710 (float64) on, so everything is
written in two functions of L that do not,

    f(L)    = log((1 − e^−L) / L)              the log-density at π = 1; f' = −mean
    g(π, L) = log(π + (1 − π) e^−L)            so that log p = f − g, and the CDF is 1 + g / L

and near L = 0, where f and the moments are differences of large numbers, in the series with Bernoulli numbers B_k

    (½ − mean) / L = variance = Σ_{k=2,4,…} B_k L^(k−2) / k!
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import Delta
from torch import Size, Tensor
from torch.distributions import constraints

from bayesprune.arguments import checked_arguments
from bayesprune.distributions.gate_prior import GatePrior
from bayesprune.errors import ConfigError

_BERNOULLI = (
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330, 854513 / 138
)  # fmt: skip
_SERIES = [(k, b / math.factorial(k)) for k, b in zip(range(2, 24, 2), _BERNOULLI, strict=True)]
# Below this L the series above is used: its first term left out is 2 / (2π)^24 = 1e-19 here.
_SERIES_BELOW = 1.0


def _polynomial(z: Tensor, coefficients: list[float]) -> Tensor:
    """Σ_j coefficients[j] z^j by Horner's rule."""
    total = torch.full_like(z, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * z + coefficient
    return total


def _split(log_gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the series serves, ``log_gamma`` for it, and for the direct formula; each 1 where the other is used.

    By ``where``, not ``clamp``, whose gradient at the bound itself depends on the version of torch.
    """
    series = log_gamma < _SERIES_BELOW
    return series, torch.where(series, log_gamma, _SERIES_BELOW), torch.where(series, _SERIES_BELOW, log_gamma)


def _largest_exponent(dtype: torch.dtype) -> float:
    """The largest L for which e^−L is a normal number, so that neither it nor e^L has lost digits or overflowed."""
    return -math.log(torch.finfo(dtype).tiny)


def _log_density_at_one(log_gamma: Tensor) -> Tensor:
    """f(L) = log((1 − e^−L) / L) for L ≥ 0; f(0) = 0."""
    is_small, small, large = _split(log_gamma)
    series = small * (small * _polynomial(small.square(), [c / k for k, c in _SERIES]) - 0.5)
    return torch.where(is_small, series, torch.log(-torch.expm1(-large) / large))


def _log_mixture(value: Tensor, log_gamma: Tensor) -> Tensor:
    """g(π, L) = log(π + (1 − π) e^−L) for π in [0, 1], with its gradients at both ends of either argument."""
    value, log_gamma = torch.broadcast_tensors(value, log_gamma)
    dtype = torch.result_type(value, log_gamma)
    limit = _largest_exponent(dtype)

    is_small, small_l, middle_l = _split(log_gamma)
    is_large = log_gamma > limit
    small = torch.log1p(torch.expm1(-small_l) * (1 - value))
    # The two terms are positive, so nothing cancels: π + (1 − π) e^−L = (1 − e^−L) π + e^−L.
    middle_l = torch.where(is_large, 1.0, middle_l)
    middle = torch.log(torch.exp(-middle_l) - torch.expm1(-middle_l) * value)
    # Here 1 − e^−L is 1, and the slope at π = 0, which is γ − 1, saturates at the largest float.
    at_zero = value <= 0
    large = torch.logaddexp(torch.log(value.masked_fill(at_zero, 1.0)), -log_gamma)
    large = torch.where(at_zero, value * torch.finfo(dtype).max - log_gamma, large)
    return torch.where(is_small, small, torch.where(is_large, large, middle))


def _as_valid(log_gamma: Tensor | float, validate: bool) -> Tensor:
    """``log_gamma`` as a floating-point tensor, checked to be positive and finite."""
    tensor = torch.as_tensor(log_gamma)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if validate:
        good = torch.isfinite(tensor) & (tensor > 0)
        if not bool(good.all()):
            found = tensor.detach()[~good].flatten()[0].item()
            raise ConfigError(
                f"FlatteningPrior: log_gamma must be positive and finite, got {found} in shape {tuple(tensor.shape)}; "
                "it is log γ in nats for the whole data set, try values between 1 and 1000; log_gamma -> 0 is "
                "Uniform(0, 1), so for no pressure to prune pass a small one such as 1e-6"
            )
    return tensor


class FlatteningPrior(GatePrior):
    """Prior p(π | γ) = (γ − 1) / (log γ · (1 + (γ − 1) π)) of an inclusion probability π ∈ [0, 1], γ > 1.

    It puts mass near 0, and log γ → 0 gives Uniform(0, 1). Eliminating π turns the KL term of a gate into one that is
    linear in its posterior inclusion probability θ, see `penalty`. All methods are elementwise and differentiable,
    accurate in value and gradient for log γ from 1e-6 to 1e5 in float32 and float64. For large log γ most samples are
    smaller than the smallest positive float and come out as 0.

    Source: Guenter & Sideris 2022, arXiv 2205.04650.

    Args:
        log_gamma: log γ > 0 in nats for the whole data set; any shape, which is the batch shape.
        validate_args: Whether to check ``log_gamma`` and the values given to `log_prob`; by default ``log_gamma`` is
            always checked and values are when Pyro's validation is on.

    Raises:
        ConfigError: if ``log_gamma`` is not positive, NaN or infinite.

    Examples:
        >>> prior = FlatteningPrior(4.0)
        >>> prior.optimum(torch.tensor([-0.1, 0.1]), num_data=100)  # keep the first gate, remove the second
        tensor([1., 0.])
    """

    decides = True
    arg_constraints = {"log_gamma": constraints.positive}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    @checked_arguments
    def __init__(self, log_gamma: Tensor | float, validate_args: bool | None = None):
        super().__init__(_as_valid(log_gamma, validate=validate_args is not False), validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density log p(value | γ) in nats; ``value`` in [0, 1], broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return _log_density_at_one(self.log_gamma) - _log_mixture(value, self.log_gamma)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Exact samples of shape ``sample_shape + batch_shape``, differentiable in ``log_gamma``."""
        shape = self._extended_shape(Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.log_gamma.dtype, device=self.log_gamma.device))

    def cdf(self, value: Tensor) -> Tensor:
        """P(π ≤ value) = log(1 + (γ − 1) value) / log γ; 0 below and 1 above the support."""
        log_gamma = self.log_gamma
        value = torch.where(value < 0, 0.0, torch.where(value > 1, 1.0, value))
        largest = 0.997 * _largest_exponent(torch.result_type(value, log_gamma))  # torch 2.6: log1p overflows early
        is_large = log_gamma > largest
        direct = torch.log1p(torch.expm1(torch.where(is_large, 1.0, log_gamma)) * value) / log_gamma
        return torch.where(is_large, 1 + _log_mixture(value, log_gamma) / log_gamma, direct)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile (γ^u − 1) / (γ − 1) of u = ``value`` in [0, 1]."""
        log_gamma = self.log_gamma
        log_ratio = _log_density_at_one(value * log_gamma) - _log_density_at_one(log_gamma)
        quantile = value * torch.exp(log_ratio - (1 - value) * log_gamma)
        return torch.where(quantile > 1, 1.0, quantile)  # by rounding

    @property
    def mean(self) -> Tensor:
        """1 / log γ − 1 / (γ − 1), of the batch shape."""
        is_small, small, large = _split(self.log_gamma)
        series = 0.5 - small * _polynomial(small.square(), [c for _, c in _SERIES])
        return torch.where(is_small, series, 1 / large + torch.exp(-large) / torch.expm1(-large))

    @property
    def variance(self) -> Tensor:
        """(½ − mean) / log γ, of the batch shape."""
        is_small, small, _ = _split(self.log_gamma)
        series = _polynomial(small.square(), [c for _, c in _SERIES])
        return torch.where(is_small, series, (0.5 - self.mean) / self.log_gamma)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, −f(log γ) − ½ log γ, of the batch shape; never positive."""
        return -_log_density_at_one(self.log_gamma) - self.log_gamma / 2

    @property
    def log_normalizer(self) -> Tensor:
        """log((γ − 1) / log γ), the log-density at 0, in nats; of the batch shape. It is −const(γ) in `penalty`."""
        return self.log_gamma + _log_density_at_one(self.log_gamma)

    def optimal(self, theta: Tensor) -> Tensor:
        """π*(θ) = θ / (θ + γ (1 − θ)), the π that `penalty` is reached at; exactly 0 at 0 and 1 at 1.

        Args:
            theta: Posterior inclusion probabilities θ in [0, 1], broadcast against the batch shape.
        """
        log_gamma, at_one = self.log_gamma, theta >= 1
        limit = _largest_exponent(torch.result_type(theta, log_gamma))
        low = theta.masked_fill(at_one, 0.5)
        half = torch.exp(-log_gamma / 2)  # twice half the exponent: no product underflows unless the odds do
        odds = (half * low) * (half / (1 - low))
        # Above ½ the odds against it are used, as 1 − π* has digits there that π* has not and its slope needs.
        upper = at_one | (odds > 1)
        high = torch.where(upper, theta, 1.0)
        odds_against = (1 - high) / high * torch.exp(log_gamma.clamp(max=limit))
        return torch.where(upper, 1 / (1 + odds_against), odds / (1 + odds))

    def penalty(self, theta: Tensor) -> Tensor:
        """min_π [KL(Bern(θ) ‖ Bern(π)) − log p(π | γ)] = θ log γ − log((γ − 1) / log γ).

        In nats for the whole data set: the term that a gate adds to the negative ELBO once q(π) is eliminated, linear
        in θ with slope log γ.

        Args:
            theta: Posterior inclusion probabilities θ in [0, 1], broadcast against the batch shape.
        """
        return -(1 - theta) * self.log_gamma - _log_density_at_one(self.log_gamma)

    def divergence(self, theta: Tensor) -> Tensor:
        """−log((γ − 1) / log γ), whatever θ is: the entropy of the gate and that of π cancel."""
        return -self.log_normalizer.expand(torch.broadcast_shapes(theta.shape, self.log_gamma.shape))

    @staticmethod
    def slope(theta: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(theta)

    @staticmethod
    def unit(price: Tensor, num_data: int) -> Tensor:
        """The price itself."""
        return price

    @staticmethod
    def optimum(evidence: Tensor, num_data: int) -> Tensor:
        """1 where the evidence against a gate is negative, otherwise 0: the objective is linear in θ."""
        return (evidence < 0).to(evidence.dtype)

    @property
    def log_odds(self) -> Tensor:
        """Logit of the mean of π."""
        return torch.logit(self.mean)

    def pyro_model(self) -> Tensor:
        """The site ``inclusion``, π."""
        return pyro.sample("inclusion", self.to_event(1))

    def pyro_guide(self, theta: Tensor) -> None:
        """π at its optimum given θ."""
        pyro.sample("inclusion", Delta(self.optimal(theta)).to_event(1))
