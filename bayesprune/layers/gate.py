"""The one concept behind all pruning: a gate that multiplies a structure's output by 0 or 1."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import GateError

INITIAL_THETA = 0.9
LARGEST_DIM = 64
"""The most dimensions that torch's tensors have."""
REPEATS = 4
"""How many examples may share what is drawn: drawing takes longer than all else that gates and noise add to a step."""
DISTINCT = 32
"""As many have draws of their own, if there are as many."""


def distinct_rows(rows: int) -> int:
    """For how many of so many examples is drawn; the others repeat them in turn."""
    return min(rows, max(DISTINCT, -(-rows // REPEATS)))


class Draw(threading.local):
    """The gate values that all gates of one network use in the present forward pass of a thread.

    They are handed in as one tensor for the whole network and cut into one slice a gate by a single ``split``, so
    handing them in takes no Python per gate. Each thread sees those that it handed in itself.

    Args:
        sizes: Number of gates of every `Gate`, in the order of their slots.

    Attributes:
        noise: Of how many examples layers with Normal weights draw their outputs in this pass; 0 if they do not.

    Examples:
        >>> gate, draw = Gate(2), Draw([2])
        >>> gate.connect(draw, 0)
        >>> with draw.use(torch.tensor([1.0, 0.0])):
        ...     gate(torch.ones(1, 2))
        tensor([[1., 0.]])
    """

    @checked_arguments
    def __init__(self, sizes: Sequence[int]):
        self.sizes = list(sizes)
        self.slices: tuple[Tensor, ...] | None = None
        self.known: Sequence[bool | None] = ()
        self.noise = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """What a copy is made of."""
        return type(self), (self.sizes,)

    @contextmanager
    def use(self, xi: Tensor | tuple[Tensor, ...], known: Sequence[bool | None] = (), noise: int = 0) -> Iterator[None]:
        """Let the gates multiply by ``xi`` within the context.

        Args:
            xi: Gate values, shape ``(S,)`` (one draw for the batch), ``(B, S)`` (one draw an example) or ``(R, S)`` (R
                draws, which the examples have in turn); or one tensor a gate.
            known: For the gates of the first ``len(known)`` slots, whether all of each are on, or all off, for the
                whole batch, as far as the host knows; else None. A branch known to be off is not computed, and nothing
                is multiplied by a gate known to be on.
            noise: The number of examples, if layers with Normal weights are to draw their outputs instead of using the
                means of their weights.
        """
        before = self.slices, self.known, self.noise
        self.slices = xi.split(self.sizes, dim=-1) if isinstance(xi, Tensor) else xi
        self.known, self.noise = known, noise
        try:
            yield
        finally:
            self.slices, self.known, self.noise = before


class Gate(nn.Module):
    """Multiplies its input by gate values ξ ∈ {0, 1}: one for each index of one dimension, or one for the whole tensor.

    Its only parameter is ``theta``, the posterior inclusion probabilities θ ∈ [0, 1]. A gate knows nothing of
    probability: it multiplies by the ξ handed to it through a `Draw`; without one it uses the mode of its gates,
    ξ = 1[θ > ½].

    A gate that stands alone may also *select*: surgery gives it ``index``, the entries of its input that are left and
    multiplied.

    One gate may multiply in several places: called more than once, or handed to several layers. What it multiplies is
    then one structure an index, which goes everywhere at once.

    Args:
        size: Number of gates. One gate multiplies the whole tensor.
        dim: Dimension of the input that the gates run along: 1 for features of ``(B, F)`` and channels of
            ``(B, C, ...)``, -1 for the last. Without meaning when ``size`` is 1.
        per_batch: Whether one draw serves a whole batch, so that what it gates can be skipped when it is off
            (branches); otherwise every example gets its own draw (units).
        within: Whether its entries lie within each of several equal parts of what a layer gives, as features do within
            every head. They are then followed apart from these parts, and an entry goes from all of them at once.
        theta: Initial inclusion probability.

    Attributes:
        begin: With which θ variational inference begins, where θ is still `INITIAL_THETA` then; ``None`` for θ itself,
            or 1 in a deep network. So a gate may be drawn off more often than on as training begins, and be on wherever
            none is drawn, as in a network before its training.
        in_size: Number of entries that the input has along ``dim``.
        index: Which of them are kept, shape ``(size,)``; ``None`` for all.
        rank: The number of dimensions that inputs must have, where removal relies on it; ``None`` for any.
        label: The name it keeps when surgery takes away the module that it was called after, while others go on with
            it; ``None`` otherwise.

    Examples:
        >>> import torch
        >>> from bayesprune.layers import Gate, Linear
        >>> stream = Gate(2, dim=-1)  # two layers write to one stream: an entry of it is there or not
        >>> first, second = Linear(3, 2, gate=stream), Linear(2, 2, gate=stream)
        >>> stream.theta.data = torch.tensor([0.9, 0.1])
        >>> x = first(torch.ones(1, 3))
        >>> (x + second(x))[0, 1].item() == 0
        True

    Shape:
        input ``(B, ...)``, output the same (``size`` entries along ``dim`` if it selects).

    Raises:
        ConfigError: if ``size`` or ``dim`` is no whole number, ``size`` < 1, or ``theta`` is outside [0, 1].
        GateError: in forward, if the input does not have ``in_size`` entries along ``dim``, or not ``rank`` dimensions,
            or if ``dim`` is its first, the batch.
    """

    rank: int | None = None

    theta: nn.Parameter
    index: Tensor | None

    @checked_arguments
    def __init__(
        self,
        size: int,
        *,
        dim: int = 1,
        per_batch: bool = False,
        within: bool = False,
        theta: float = INITIAL_THETA,
    ):
        super().__init__()
        size = whole("Gate: size", size)
        theta = real("Gate: the initial theta", theta, 0, 1, "[]")
        self.size = size
        self.dim = whole("Gate: dim", dim, -LARGEST_DIM, LARGEST_DIM)
        self.per_batch = per_batch
        self.within = within
        self.theta = nn.Parameter(torch.full((size,), theta))
        self.begin: float | None = None
        self.in_size = size
        self.register_buffer("index", None)
        self.draw: Draw | None = None
        self.slot = 0
        self.label: str | None = None

    def connect(self, draw: Draw, slot: int) -> None:
        """Take gate values from slice ``slot`` of ``draw`` from now on.

        Args:
            draw: The draw.
            slot: Which of its slices.
        """
        self.draw, self.slot = draw, slot

    def mode(self) -> Tensor:
        """The most probable gate values, shape ``(size,)``, 0 or 1 in the dtype of ``theta``."""
        return (self.theta.detach() > 0.5).to(self.theta.dtype)

    def state(self) -> bool | None:
        """Whether the whole gate is known to be on (True) or off (False) in this pass; None if it varies or is unknown.

        Without a draw this reads θ, which waits for the device.
        """
        if self.draw is not None and self.draw.slices is not None:
            return self.draw.known[self.slot] if self.slot < len(self.draw.known) else None
        return bool(self.theta > 0.5) if self.size == 1 else None

    def values(self) -> Tensor | None:
        """This pass's values of a gate that a batch shares, shape ``(in_size,)``; ``None`` if it is known to be on.

        Entries that it does not select have the value 0.
        """
        drawn = self.draw is not None and self.draw.slices is not None
        if drawn and self.index is None and self.state():
            return None
        xi = self.draw.slices[self.slot] if drawn else self.mode()  # type: ignore[union-attr, index]
        xi = xi[0] if xi.dim() == 2 else xi
        return xi if self.index is None else xi.new_zeros(self.in_size).index_copy(0, self.index, xi)

    def forward(self, x: Tensor, dim: int | None = None) -> Tensor:
        """``x``, of which a gate that selects keeps its entries, times the gate values of this pass.

        Args:
            x: Input, shape ``(B, ...)``.
            dim: The dimension that the gates run along here; ``None`` for the gate's own.
        """
        dim = self.dim if dim is None else dim
        x = self.select(x, dim)
        if self.draw is None or self.draw.slices is None:
            return self.scale(x, self.mode(), dim)
        return x if self.state() else self.scale(x, self.draw.slices[self.slot], dim)

    def select(self, x: Tensor, dim: int | None = None) -> Tensor:
        """The entries of ``x`` that are left to multiply along ``dim``.

        Args:
            x: What is gated.
            dim: The dimension that the gates run along; ``None`` for the gate's own.
        """
        along = self.dim if dim is None else dim
        if self.rank not in (None, x.dim()):
            raise GateError(
                f"Gate of size {self.in_size} along dimension {along} received an input of shape {tuple(x.shape)}, "
                f"but was taken to gate {self.rank} dimensions; pass example_input= to BayesianNet, so that it is known"
            )
        dim = along % x.dim()
        if dim == 0 and self.in_size != 1:
            raise GateError(
                f"Gate of size {self.in_size} along dimension {along} received an input of shape {tuple(x.shape)}, "
                "whose dimension there is the batch; give a single example as a batch of one: x[None]"
            )
        if self.in_size != 1 and x.shape[dim] != self.in_size:
            raise GateError(
                f"Gate of size {self.in_size} along dimension {along} received an input of shape {tuple(x.shape)}, "
                f"which has {x.shape[dim]} there; make the gate's size equal to the number of features or channels it "
                "gates"
            )
        return x if self.index is None else x.index_select(dim, self.index)

    def scale(self, x: Tensor, xi: Tensor, dim: int | None = None) -> Tensor:
        """``x`` times gate values, broadcast over all dimensions but one.

        Args:
            x: What is gated.
            xi: Gate values, shape ``(size,)``, ``(B, size)``, or ``(R, size)`` for R that divides B: rows that the
                examples have in turn.
            dim: The dimension that they run along; ``None`` for the gate's own.
        """
        shape = [1] * x.dim()
        shape[(self.dim if dim is None else dim) % x.dim()] = self.size
        if xi.dim() == 2:
            if self.per_batch and len(xi) > 1 and x.shape[0] % len(xi):
                xi = xi[:1]  # one draw, whatever lies along dimension 0
            shape[0] = rows = xi.shape[0]
            if rows > 1 and rows != x.shape[0]:
                return (x.unflatten(0, (-1, rows)) * xi.view(shape).to(x.dtype)).flatten(0, 1)
        return x * xi.view(shape).to(x.dtype)

    def extra_repr(self) -> str:
        """Size, dimension and how draws are shared."""
        return f"{self.size}, dim={self.dim}" + (", per_batch=True" if self.per_batch else "")
