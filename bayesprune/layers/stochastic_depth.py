"""Stochastic depth: in training a whole branch is left out at random."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real


class StochasticDepth(nn.Module):
    """Multiplies a branch by 0 with probability ``p`` in training, and by 1 / (1 − p) otherwise (Huang et al. 2016).

    It stands for the modules of this kind of torchvision and timm in networks that are converted.

    Args:
        p: The probability of 0.
        per_batch: Whether one draw serves a whole batch; otherwise every example gets its own.

    Shape:
        input ``(B, ...)``, output the same.

    Example:
        >>> import torch
        >>> StochasticDepth(0.5).eval()(torch.ones(2))
        tensor([1., 1.])

    Raises:
        ConfigError: if ``p`` is outside [0, 1].
    """

    @checked_arguments
    def __init__(self, p: float, per_batch: bool = False):
        super().__init__()
        self.p = real("StochasticDepth: p", p, 0, 1, "[]")
        self.per_batch = per_batch

    def forward(self, x: Tensor) -> Tensor:
        """``x``, or zeros in place of examples that are dropped."""
        if not self.training or self.p == 0:
            return x
        rows = 1 if self.per_batch else len(x)
        return x * F.dropout(x.new_ones(rows, *[1] * (x.dim() - 1)), self.p)
