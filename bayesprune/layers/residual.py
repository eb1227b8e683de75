"""A gated branch with a linear by-pass around it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError, GateError
from bayesprune.layers.gate import INITIAL_THETA, Gate


class Residual(nn.Module):
    """y = shortcut(x) + ξ · body(x): one gate on a whole branch (Guenter & Sideris 2024, section 2).

    A branch whose gate is known to be off is not computed, forward or backward; when θ reaches 0 it is removed and the
    by-pass stays.

    Args:
        body: The branch F. Its last operation may be a normalisation; the gate multiplies after it.
        shortcut: The linear by-pass P; ``None`` for the identity, which needs a body that keeps the shape.
        gate: One gate for several branches, which then go together: of size 1, with one draw a batch. ``None`` for a
            gate of its own.
        theta: Initial inclusion probability of its own gate.

    Attributes:
        run: What computes the branch instead of ``body`` in passes with gradient, a faster form of it that uses the
            same parameters; ``None`` for ``body`` itself. It is not part of the network: copies do not have it.

    Shape:
        input ``(B, ...)``, and what else the branch is given; output that of ``body`` and of ``shortcut``, which must
        be equal.

    Examples:
        >>> import torch
        >>> from bayesprune.layers import Gate, Residual
        >>> both = Gate(1, per_batch=True, theta=0.2)  # off: its mode is 0
        >>> net = torch.nn.Sequential(*(Residual(torch.nn.Linear(3, 3), gate=both) for _ in range(2)))
        >>> x = torch.ones(1, 3)
        >>> bool((net(x) == x).all())
        True

    Raises:
        ConfigError: for a gate of another size, or one with a draw for every example.
        GateError: in forward, if by-pass and branch do not have the same shape.
    """

    @checked_arguments
    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        *,
        gate: Gate | None = None,
        theta: float = INITIAL_THETA,
    ):
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        if gate is not None and (gate.size != 1 or not gate.per_batch):
            raise ConfigError(
                f"Residual: the gate must be Gate(1, per_batch=True), got size {gate.size}, per_batch={gate.per_batch}"
            )
        self.gate = Gate(1, per_batch=True, theta=theta) if gate is None else gate
        self.run: Callable[..., Tensor] | None = None

    def __getstate__(self) -> dict:
        """What a copy is made of."""
        return {**self.__dict__, "run": None}

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """The by-pass, plus the branch if its gate is not off.

        Args:
            x: What both are given.
            others: What the branch is given besides, a mask say.
        """
        bypass = self.shortcut(x)
        if self.gate.state() is False:
            return bypass
        faster = self.run if torch.is_grad_enabled() else None
        branch = self.gate(self.body(x, *others) if faster is None else faster(x, *others))
        if branch.shape != bypass.shape:
            raise GateError(
                f"Residual: the branch gives shape {tuple(branch.shape)}, its by-pass {tuple(bypass.shape)}; pass "
                "shortcut= a linear map (a 1x1 convolution or a Linear) that gives the branch's shape"
            )
        return bypass + branch


class Bypass(nn.Sequential):
    """What is left of a `Residual` whose branch has gone, called as that was.

    Args:
        shortcut: The by-pass.

    Examples:
        >>> Bypass(torch.nn.Identity())(torch.ones(1), torch.zeros(1))
        tensor([1.])
    """

    @checked_arguments
    def __init__(self, shortcut: nn.Module):
        super().__init__(OrderedDict(shortcut=shortcut))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """The by-pass.

        Args:
            x: What it is given.
            others: What the branch was given besides.
        """
        passed: Tensor = super().forward(x)
        return passed
