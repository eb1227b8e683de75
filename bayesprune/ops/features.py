"""What is known of one tensor, entry by entry along its feature axis, and how an operation relates two tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from bayesprune.errors import TraceError

Stay = Callable[[Tensor], Tensor]
"""Gives for ids whether each of these entries stays, bool."""


@dataclass(frozen=True)
class Features:
    """The entries of a tensor along its feature axis.

    Attributes:
        ids: Which physical entry each one is, shape ``(n,)``: entries with one id are kept or removed together.
        value: The constant each entry is known to be, shape ``(n,)``, float64; NaN where it is not constant.
        axis: The dimension that they run along: 1 (channels, and features of ``(B, F)``), -1 (features of
            ``(B, ..., F)``) or another one.
        rank: Number of dimensions of the tensor, if known.
        layout: ``"plain"``; or, flattened, with each of the n entries standing for r consecutive entries of the tensor
            (``"blocks"``) or for every n-th one (``"tiles"``), r being known once a layer of known size reads it.

    Examples:
        >>> x = Features(torch.arange(3), torch.tensor([0.0, torch.nan, torch.nan]), axis=1, layout="blocks")
        >>> x.unknown.tolist(), x.entries(6, "a linear layer").tolist()
        ([False, True, True], [0, 0, 1, 1, 2, 2])
    """

    ids: Tensor
    value: Tensor
    axis: int
    rank: int | None = None
    layout: str = "plain"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unknown(self) -> Tensor:
        """Where entries are not constant, shape ``(n,)``, bool."""
        return self.value.isnan()

    def along(self, axis: int) -> Features | None:
        """The same entries seen along ``axis``; ``None`` if the features do not run along it.

        A tensor of unknown rank whose first or last dimension holds features is taken for a matrix, of rank 2 from then
        on, by layers that work along the last or the first.
        """
        if self.axis == axis:
            return self
        if self.rank is not None:
            return replace(self, axis=axis) if (self.axis - axis) % self.rank == 0 else None
        return replace(self, axis=axis, rank=2) if {self.axis, axis} == {1, -1} else None

    def entries(self, size: int, where: str) -> Tensor:
        """Which of the n entries each entry of the tensor is, shape ``(size,)``.

        Args:
            size: How many entries the tensor has.
            where: What reads them, for messages.

        Raises:
            TraceError: if the tensor cannot have ``size`` entries.
        """
        count, rest = divmod(size, len(self))
        if rest or (self.layout == "plain" and count != 1):
            raise TraceError(
                f"{where} expects {size} features, but what it is given has {len(self)}"
                + (" times the size of the map" if self.layout != "plain" else "")
            )
        index = torch.arange(len(self))
        return index.repeat(count) if self.layout == "tiles" else index.repeat_interleave(count)


@dataclass(frozen=True)
class Flow:
    """Entry ``dst[k]`` of the output is computed from entry ``src[k]`` of an input, and from no other of it.

    Attributes:
        node: The input.
        src: Its entries.
        dst: Those of the output, as many.

    Examples:
        >>> x = fx.Graph().placeholder("x")
        >>> flow = Flow(x, src=torch.tensor([2, 0]), dst=torch.arange(2))  # of three entries the last and the first
        >>> flow.node.name
        'x'
    """

    node: fx.Node
    src: Tensor
    dst: Tensor


@dataclass(frozen=True)
class Read:
    """Every output depends on every entry of an input.

    Attributes:
        node: The input.
        must: Which of its entries stay even if they are constant, shape ``(n,)``, bool.
        reason: Why, in words that complete "it leaves a constant, and ...".
        needs: Which entries outputs depend on, shape ``(n,)``, bool; ``None`` for all. The others meet zeros.

    Examples:
        >>> x = fx.Graph().placeholder("x")
        >>> bool(Read(x, must=torch.zeros(3, dtype=torch.bool)).must.any())  # a linear layer with a bias
        False
    """

    node: fx.Node
    must: Tensor
    reason: str = ""
    needs: Tensor | None = None


@dataclass
class Step:
    """What one operation does.

    Attributes:
        out: Its output; ``None`` if nothing is known of it.
        flows: Inputs that it treats entry by entry.
        reads: Inputs whose entries it mixes.
        pins: Inputs of which every entry must stay in place.
        ties: Pairs of equally long ids that are one physical entry each.
        holds: Ids of entries that stay in any case.
        selects: Whether it may keep fewer entries of its output than of its input (a gate that stands alone).
        reason: Why it pins, in words that complete "it ...".
        whole: Given which ids stay, those that have to stay with them, so that what is left is such an operation.
        refit: Given which ids stay, the numbers that calls have to be written with, by call.

    Examples:
        >>> x = fx.Graph().placeholder("x")
        >>> barrier(x, "is the first") == Step(reason="is the first")
        True
    """

    out: Features | None = None
    flows: list[Flow] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    pins: list[fx.Node] = field(default_factory=list)
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    holds: list[Tensor] = field(default_factory=list)
    selects: bool = False
    reason: str = ""
    whole: Callable[[Stay], Tensor] | None = None
    refit: Callable[[Stay], Mapping[fx.Node, Sequence[int | fx.Node]]] | None = None


def barrier(node: fx.Node, reason: str) -> Step:
    """The step of an operation of which nothing is known: every input entry stays.

    Args:
        node: The operation.
        reason: Why, in words that complete "it ...".
    """
    return Step(pins=list(node.all_input_nodes), reason=reason)
