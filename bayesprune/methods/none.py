"""Plain training: nothing is pruned."""

from __future__ import annotations

from typing import ClassVar

from bayesprune.methods.protocol import Method


class Plain(Method):
    """Training as a loop of plain PyTorch does it, to the bit.

    Examples:
        >>> Plain().options()
        {}
    """

    name: ClassVar[str] = "none"
