"""Ratios of gamma functions, without the difference of two large logarithms."""

from __future__ import annotations

import torch
from torch import Tensor

SERIES = 16.0
"""From here on Stirling's series stands for log Γ: its next term is 1e-12."""


def log_rising(c: Tensor, y: Tensor) -> Tensor:
    """Log Γ(c + y) − log Γ(c) − y log c, as exact at c = 1e8 as at 1; differentiable in both.

    The logarithms of such gamma functions are 1e9, of which float32 keeps no nat. Their series (Abramowitz & Stegun
    1964, 6.1.40) can be subtracted term by term.

    Args:
        c: Positive.
        y: Not negative, broadcast against ``c``.
    """
    large = c.clamp(min=SERIES)
    series = (large + y - 0.5) * torch.log1p(y / large) - y + _tail(large + y) - _tail(large)
    small = c.clamp(max=SERIES)
    return torch.where(c < SERIES, torch.lgamma(small + y) - torch.lgamma(small) - y * small.log(), series)


def _tail(x: Tensor) -> Tensor:
    """What the series has besides (x − ½) log x − x + ½ log 2π."""
    return (1 / 12 - (1 / 360 - 1 / 1260 / x.square()) / x.square()) / x
