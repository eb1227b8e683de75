"""A call, made on tensors that hold at every position the number of the entry that is there."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.ops.call import Call, compute, tensors_read
from bayesprune.ops.features import Features
from bayesprune.ops.literals import Literals, literals_of, with_literals
from bayesprune.ops.sizes import is_shape

UNKNOWN = -1.0
"""The number of all entries of tensors of which nothing is known."""


@dataclass(frozen=True)
class Source:
    """A tensor that is read.

    Attributes:
        node, x: What gives the tensor, and its features.
        axis, index: The dimension that they lie along, from the front, and which of them is at each position.
        start: The number of the first position.
        length: How many positions there are, without the twin of one that is alone.
    """

    node: fx.Node
    x: Features
    axis: int
    index: Tensor
    start: int
    length: int

    @property
    def numbers(self) -> Tensor:
        """The numbers of its positions."""
        return torch.arange(self.start, self.start + len(self.index))


class Numbered:
    """The entries of all tensors that a call depends on, numbered, and the call, made on their numbers.

    An entry that is alone does not tell along which dimension it lies, so that a twin is put beside it.

    Args:
        call: The call.
        shapes: The shapes of all tensors for a few examples, so that none is taken for an axis of length 1.

    Attributes:
        sources: The tensors that have features, by the node that gives them.
        twins, ids, values: Of every number, whether it is that of a twin, and the id and the constant of its entry.
        literals: The numbers that are written in calls and may be others.
    """

    def __init__(self, call: Call, shapes: Mapping[fx.Node, torch.Size]):
        self.call, self.shapes = call, shapes
        self.sources: dict[fx.Node, Source] = {}
        start = 0
        for node in tensors_read(call.node, call.known, shapes, call.following.waiting):
            x = call.known[node]
            if x is None:
                continue
            axis = x.axis % len(shapes[node])
            index = x.entries(shapes[node][axis], node.name)
            length = len(index)
            index = index.repeat(2) if length == 1 else index
            self.sources[node] = Source(node, x, axis, index, start, length)
            start += len(index)
        self._gone: Tensor | None = None
        self._tensors: dict[fx.Node, Tensor] = {}
        written = [node for node in self.made() if node in call.written and not is_shape(node)]
        self.literals = {node: found for node in written if not self._picks(node) and (found := literals_of(node))}
        every = self.sources.values()
        self.twins = torch.cat([torch.arange(len(s.index)) >= s.length for s in every])
        self.ids = torch.cat([s.x.ids[s.index] for s in every])
        self.values = torch.cat([s.x.value[s.index] for s in every])

    def made(self) -> Iterator[fx.Node]:
        """The call, and those before it that are made with it, as what they give has no features."""
        waiting = [self.call.node]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [source for source in node.all_input_nodes if not self._given(source)]

    def _given(self, node: fx.Node) -> bool:
        """Whether the call is given what a node computes, instead of being made with it."""
        return node in self.shapes and node not in self.call.following.waiting

    def form(self) -> tuple[Any, ...]:
        """All that the result and what may be left out depend on: calls of one form do the same to their numbers."""
        made = list(dict.fromkeys(self.made()))
        given = list(dict.fromkeys(source for node in made for source in node.all_input_nodes if source not in made))

        def told(node: fx.Node) -> str:
            return f"made {made.index(node)}" if node in made else f"given {given.index(node)}"

        calls = [
            (str(node.target), str(self.call.modules.get(node)), node in self.literals,
             str(fx.node.map_arg((node.args, node.kwargs), told)))  # type: ignore[arg-type]
            for node in made
        ]  # fmt: skip
        tensors = [
            (tuple(self.shapes.get(node, ())), list(self.sources).index(node) if node in self.sources else _data(
                self.call.constants.get(node)))
            for node in given
        ]  # fmt: skip
        sources = [(tuple(self.shapes[node]), s.axis, s.length, _data(s.index)) for node, s in self.sources.items()]
        together = self.call.following.one[self.ids].unique(return_inverse=True)[1]
        alone, parts = tuple(self.call.shapes[self.call.node]), self.call.following.parts
        return str(calls), str(tensors), str(sources), _data(together), alone, parts

    def _picks(self, node: fx.Node) -> bool:
        """Whether a call picks one of several tensors, whose place among them stays what it is."""
        return node.target is operator.getitem and node.args[0] not in self.shapes

    def spread(self) -> bool:
        """Whether the entries lie along several dimensions of what the call gives, or along one with the examples.

        So it is taken to be where the call gives numbers of other dimensions than an example has.
        """
        moved, alone = self.run(), self.call.shapes[self.call.node]
        if moved is None or not moved.numel():
            return False
        if moved.dim() != len(alone):
            return True
        along = [d for d in range(moved.dim()) if not torch.equal(moved.narrow(d, 0, 1).expand_as(moved), moved)]
        return len(along) > 1 or any(moved.shape[d] != alone[d] for d in along)

    def run(self, gone: Tensor | None = None, literals: Literals | None = None) -> Tensor | None:
        """The call on numbers; ``None`` if it fails on them, or gives no tensor.

        Args:
            gone: The numbers that are left out, bool.
            literals: Numbers that are written in calls, if they are others than they were.
        """
        if gone is not self._gone or not self._tensors:
            self._gone, self._tensors = gone, {}
        tensors: dict[fx.Node, Tensor] = self._tensors
        made: dict[fx.Node, Any] = {}

        def value(node: fx.Node) -> Any:
            if self._given(node):
                if node not in tensors:
                    tensors[node] = self._tensor(node, gone)
                return tensors[node]
            if node not in made:
                made[node] = call(node)
            return made[node]

        def call(node: fx.Node) -> Any:
            new = None if literals is None or node not in literals else with_literals(node, literals[node])
            return compute(node, self.call.modules, value, new)

        try:
            result = call(self.call.node)
        except Exception:  # sizes are computed as the user wrote it: with others that may raise anything
            return None
        return result if isinstance(result, Tensor) and result.is_floating_point() else None

    def _tensor(self, node: fx.Node, gone: Tensor | None) -> Tensor:
        """The numbers of what is left of a tensor; one that is the same in every pass is what it is."""
        if node in self.call.constants:
            return self.call.constants[node]
        shape = list(self.shapes[node])
        source = self.sources.get(node)
        if source is None:
            return torch.tensor(UNKNOWN).expand(shape)
        left = source.numbers if gone is None else source.numbers[~gone[source.numbers]]
        shape[source.axis] = len(left)
        along = left.to(torch.float32).view(-1, *[1] * (len(shape) - source.axis - 1))
        return along.expand(shape).contiguous()


def _data(tensor: Tensor | None) -> bytes:
    return b"" if tensor is None else tensor.contiguous().numpy().tobytes()
