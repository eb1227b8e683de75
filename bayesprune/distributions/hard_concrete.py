"""Numbers from 0 to 1 that are often one of the two, differentiable in how often (Louizos, Welling & Kingma 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""The temperature of the concrete distribution, and the interval to which it is stretched."""


def hard_concrete(log_alpha: Tensor, u: Tensor | None = None) -> Tensor:
    """Z = clip(s (ζ − γ) + γ, 0, 1), s = σ((logit u + log α) / β), their equations 10 and 11.

    Args:
        log_alpha: log α.
        u: Uniform numbers; ``None`` for what stands for z where nothing is drawn, s = σ(log α), their equation 13.

    Examples:
        >>> hard_concrete(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    s = torch.sigmoid(log_alpha if u is None else (torch.logit(u, 1e-6) + log_alpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def not_zero(log_alpha: Tensor) -> Tensor:
    """P(z ≠ 0), their equation 12.

    Args:
        log_alpha: log α.

    Examples:
        >>> round(float(not_zero(torch.tensor(0.0))), 3)
        0.832
    """
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))
