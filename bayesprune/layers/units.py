"""What stands at the two ends of a network of standardised numbers, so that it speaks the units of a table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError

LEAST = 2.0**-40
"""Relative to the size of its numbers, a spread at most this large is rounding: the column is constant."""
UNREAD = 2.0**100
"""Scale of an input that was constant in training: whatever comes later, a network that knows nothing of it reads 0."""


def moments(values: Tensor, weights: Tensor | None = None, *, constant: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every column, float64, shape of one row; of a constant one its value.

    Args:
        values: Rows, first dimension N.
        weights: How much each row counts, shape ``(N,)``; ``None`` for all alike.
        constant: What stands for the standard deviation of a constant column.
    """
    values = values.detach().to("cpu", torch.float64)
    share = torch.ones(len(values), dtype=torch.float64) if weights is None else weights.to("cpu", torch.float64)
    share = (share / share.sum()).view(-1, *[1] * (values.dim() - 1))
    mean = (share * values).sum(0)
    spread = (share * (values - mean).square()).sum(0).sqrt()
    varies = spread > LEAST * values.abs().amax(0)
    own = values[int(share.argmax())]  # the mean of equal numbers is another one in the last digit
    return torch.where(varies, mean, own), torch.where(varies, spread, constant)


class Standardise(nn.Module):
    """(x − location) / scale, entry by entry: columns in their own units become standardised ones.

    Two buffers, which are saved, cast and compacted with the network; nothing in it is learned.

    Args:
        location: What is taken off, shape of one row.
        scale: What is divided by, likewise; positive.

    Shape:
        input ``(B, ...)``, output the same.

    Raises:
        ConfigError: for numbers that are not finite, a scale that is not positive, or two of different shapes.

    Examples:
        >>> Standardise(torch.tensor([10.0]), torch.tensor([2.0]))(torch.tensor([[14.0]]))
        tensor([[2.]])
    """

    location: Tensor
    scale: Tensor

    @checked_arguments
    def __init__(self, location: Tensor, scale: Tensor):
        super().__init__()
        finite = bool(location.isfinite().all()) and bool(scale.isfinite().all())
        if location.shape != scale.shape or not finite or not bool((scale > 0).all()):
            raise ConfigError(
                f"{type(self).__name__}: location and scale must be finite, of one shape, and the scale positive, got "
                f"shapes {tuple(location.shape)} and {tuple(scale.shape)}"
            )
        self.register_buffer("location", location.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The standardised numbers."""
        return (x - self.location) / self.scale


class Units(Standardise):
    """x · scale + location, entry by entry: standardised outputs become predictions in the units of the targets.

    Args:
        location: What is added, shape of one output.
        scale: What is multiplied by, likewise; positive.

    Shape:
        input ``(B, ...)``, output the same.

    Raises:
        ConfigError: as for `Standardise`.

    Examples:
        >>> Units(torch.tensor([10.0]), torch.tensor([2.0]))(torch.tensor([[2.0]]))
        tensor([[14.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """In the units of the targets."""
        return x * self.scale + self.location
