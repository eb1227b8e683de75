"""The flattening prior in exact decimals."""

from collections.abc import Callable
from decimal import Decimal

import torch
from torch import Tensor

LOG_GAMMAS = [
    1e-6,
    1e-3,
    0.1,
    0.5,
    0.999,
    1.0,
    1.001,
    1.5,
    4.0,
    18.0,
    60.0,
    87.0,
    88.0,
    100.0,
    500.0,
    708.0,
    709.0,
    1e3,
    1e4,
    1e5,
]
VALUES = [0.0, 1e-37, 1e-30, 1e-9, 1e-3, 0.25, 0.5, 0.75, 0.999, 1 - 1e-7, 1.0]
DTYPES = [torch.float32, torch.float64]
Reference = Callable[[Decimal, Decimal], Decimal]


def log_density(x: Decimal, log_gamma: Decimal) -> Decimal:
    g = log_gamma.exp() - 1
    return (g / (log_gamma * (1 + g * x))).ln()


def slope_in_value(x: Decimal, log_gamma: Decimal) -> Decimal:
    g = log_gamma.exp() - 1
    return -g / (1 + g * x)


def slope_in_log_gamma(x: Decimal, log_gamma: Decimal) -> Decimal:
    gamma = log_gamma.exp()
    return gamma / (gamma - 1) - 1 / log_gamma - gamma * x / (1 + (gamma - 1) * x)


def cumulative(x: Decimal, log_gamma: Decimal) -> Decimal:
    return (1 + (log_gamma.exp() - 1) * x).ln() / log_gamma


def quantile(u: Decimal, log_gamma: Decimal) -> Decimal:
    return ((u * log_gamma).exp() - 1) / (log_gamma.exp() - 1)


def quantile_slope(u: Decimal, log_gamma: Decimal) -> Decimal:
    gamma, power = log_gamma.exp(), (u * log_gamma).exp()
    return u * power / (gamma - 1) - (power - 1) * gamma / (gamma - 1) ** 2


def mean(log_gamma: Decimal) -> Decimal:
    return 1 / log_gamma - 1 / (log_gamma.exp() - 1)


def variance(log_gamma: Decimal) -> Decimal:
    """E[π²] − E[π]², with π² p(π) integrated by hand."""
    m = mean(log_gamma)
    return 1 / (2 * log_gamma) - m / (log_gamma.exp() - 1) - m * m


def optimum(theta: Decimal, log_gamma: Decimal) -> Decimal:
    return theta / (theta + log_gamma.exp() * (1 - theta))


def objective(s: Decimal, theta: Decimal, log_gamma: Decimal) -> Decimal:
    """KL(Bern(θ) ‖ Bern(π)) − log p(π | γ) at logit π = s, for 0 < θ < 1."""
    log_on, log_off = -(1 + (-s).exp()).ln(), -(1 + s.exp()).ln()
    kl = theta * (theta.ln() - log_on) + (1 - theta) * ((1 - theta).ln() - log_off)
    return kl - log_density(log_on.exp(), log_gamma)


def cases(dtype: torch.dtype, points: list[float]):
    """Every point at every log γ as tensors that require gradients, with the exact decimal numbers that they hold."""
    for log_gamma in LOG_GAMMAS:
        for point in points:
            x = torch.tensor(point, dtype=dtype, requires_grad=True)
            big_l = torch.tensor(log_gamma, dtype=dtype, requires_grad=True)
            yield x, big_l, Decimal(x.item()), Decimal(big_l.item()), f"log γ = {log_gamma}, at {point}, {dtype}"


def digits_lost(log_gamma: Tensor) -> float:
    """Rounding of numbers of the size of log(value) ≥ −750 when they are exponentiated, in units of eps."""
    return 8 + 2 * min(log_gamma.item(), 750)
