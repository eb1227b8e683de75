"""With what probability something is dropped, where a function has to be told."""

from __future__ import annotations

from torch import nn


class DropoutRate(nn.Module):
    """Gives a probability in training mode, and 0 in eval mode.

    Args:
        p: The probability.

    Examples:
        >>> rate = DropoutRate(0.1)
        >>> rate(), rate.eval()()
        (0.1, 0.0)
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self) -> float:
        """The probability now."""
        return self.p if self.training else 0.0
