"""A call, made on tensors that hold at every position the number of the entry that is there.

Its result tells where entries go, and which of them end up in one: these go together. It is then made again as it would
be after a removal, on tensors with fewer entries and with the sizes that forward reads of them. Only if that gives what
is left of the first result, in its order, does the call keep working in a smaller network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.ops.call import Call, compute, tensors_read
from bayesprune.ops.features import Features, Flow, Step
from bayesprune.ops.ties import joined

Ties = list[tuple[Tensor, Tensor]]
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


@dataclass(frozen=True)
class Joint:
    """Which numbers each slice of a result along ``axis`` holds: ``number[k]`` is in slice ``place[k]``, once.

    Attributes:
        axis, size: The dimension, and how many slices there are.
        place, number: Slices, ascending, and a number that each holds.
    """

    axis: int
    size: int
    place: Tensor
    number: Tensor

    @classmethod
    def of(cls, axis: int, slices: Tensor) -> Joint:
        """Read them off the slices.

        Args:
            axis: The dimension that they lay along.
            slices: Shape ``(size, ...)``.
        """
        size = len(slices)
        if bool((slices == slices[:, :1]).all()):
            return cls(axis, size, torch.arange(size), slices[:, 0].long())
        slices = slices.long()
        low, high = int(slices.min()), int(slices.max())
        pairs = (slices - low + (high - low + 1) * torch.arange(size)[:, None]).unique()
        return cls(axis, size, pairs // (high - low + 1), pairs % (high - low + 1) + low)

    @property
    def first(self) -> Tensor:
        """The smallest number of every slice."""
        return self.number[torch.searchsorted(self.place, torch.arange(self.size))]


NOTHING = Joint(0, 0, torch.arange(0), torch.arange(0))


def _slices(moved: Tensor, axis: int) -> Tensor:
    """The slices of a result along ``axis``, shape ``(size, rest)``."""
    return moved.movedim(axis, 0).unsqueeze(-1).flatten(1)


class Numbers:
    """The entries of all tensors that a call depends on, numbered, and the call, made on their numbers.

    An entry that is alone does not tell along which dimension it lies, so that a twin is put beside it.

    Args:
        call: The call.
        shapes: The shapes of all tensors for a few examples, so that none is taken for an axis of length 1.

    Example:
        >>> from bayesprune.graph import Analysis, trace
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 1), torch.nn.ChannelShuffle(2))
        >>> steps = Analysis(trace(net, torch.zeros(1, 2, 3, 3)), {}).steps.values()
        >>> [step.out.ids.tolist() for step in steps if step.out]
        [[0, 1, 2, 3], [0, 2, 1, 3]]
    """

    def __init__(self, call: Call, shapes: Mapping[fx.Node, torch.Size]):
        self.call, self.shapes = call, shapes
        self.sources: dict[fx.Node, Source] = {}
        start = 0
        for node in tensors_read(call.node, call.known, shapes):
            x = call.known[node]
            if x is None:
                continue
            axis = x.axis % len(shapes[node])
            index = x.entries(shapes[node][axis], node.name)
            length = len(index)
            index = index.repeat(2) if length == 1 else index
            self.sources[node] = Source(node, x, axis, index, start, length)
            start += len(index)
        every = self.sources.values()
        self.twins = torch.cat([torch.arange(len(s.index)) >= s.length for s in every])
        self.ids = torch.cat([s.x.ids[s.index] for s in every])
        self.values = torch.cat([s.x.value[s.index] for s in every])

    def with_fewer(self) -> tuple[Joint, Ties] | None:
        """What ends up where, and what besides must go together for the call to do the same to fewer entries."""
        moved, shape = self.run(), self.call.shapes[self.call.node]
        real = self.run(self.twins) if bool(self.twins.any()) else moved
        if moved is None or real is None or not moved.dim() == real.dim() == len(shape):  # one dropped for one example
            return None
        if bool((moved == UNKNOWN).all()):
            return (NOTHING, []) if self.adapts(moved, NOTHING, []) else None
        for axis in range(moved.dim()):
            if shape[axis] != real.shape[axis]:
                continue  # examples lie along it
            slices = _slices(moved, axis)
            unknown = slices == UNKNOWN
            if bool((unknown != unknown[:, :1]).any()) or bool((slices == slices[:1]).all()):
                continue
            joint = Joint.of(axis, slices)
            for ties in self.guesses(joint):
                if self.adapts(moved, joint, ties):
                    return Joint.of(axis, _slices(real, axis)), ties
        return None

    def wanted(self) -> list[fx.Node]:
        """The tensors whose entries the call wants in place: with fewer of one of them it gives another result.

        Of others it is given sizes that removal leaves alone.
        """
        moved, found = self.run(), []
        for node, source in self.sources.items():
            for places in (source.numbers[:1], source.numbers[-1:], source.numbers[1::2], source.numbers[1:]):
                left = self.run(torch.isin(torch.arange(len(self.ids)), places))
                if moved is None or left is None or not torch.equal(left, moved):
                    found.append(node)
        return list(dict.fromkeys([*found, *self.call.node.all_input_nodes]))

    def run(self, gone: Tensor | None = None) -> Tensor | None:
        """The call on numbers, without those in ``gone``, bool; ``None`` if it fails on them, or gives no tensor."""
        made: dict[fx.Node, Any] = {}
        modules = self.call.modules

        def value(node: fx.Node) -> Any:
            if node not in made:
                made[node] = self._tensor(node, gone) if node in self.shapes else compute(node, modules, value)
            return made[node]

        try:
            result = compute(self.call.node, modules, value)
        except Exception:  # sizes are computed as the user wrote it: with others that may raise anything
            return None
        return result if isinstance(result, Tensor) and result.is_floating_point() else None

    def _tensor(self, node: fx.Node, gone: Tensor | None) -> Tensor:
        """The numbers of what is left of a tensor."""
        shape = list(self.shapes[node])
        source = self.sources.get(node)
        if source is None:
            return torch.tensor(UNKNOWN).expand(shape)
        left = source.numbers if gone is None else source.numbers[~gone[source.numbers]]
        shape[source.axis] = len(left)
        along = left.to(torch.float32).view(-1, *[1] * (len(shape) - source.axis - 1))
        return along.expand(shape).contiguous()

    def guesses(self, joint: Joint) -> Iterator[Ties]:
        """Ties, besides those of entries that end up in one, with which the call may keep working on fewer of them.

        None; those of tensors with as many entries (whose sizes it is given, say); those of the equal parts of one.
        """
        yield []
        moved = [s for s in self.sources.values() if bool(torch.isin(s.numbers, joint.number).any())]
        alike = [s for s in self.sources.values() if len(s.index) == len(moved[0].index) and s is not moved[0]]
        if alike:
            first = self.ids[moved[0].numbers]
            yield [(first, self.ids[s.numbers]) for s in alike]
        if len(moved) == 1:
            ids = self.ids[moved[0].numbers]
            for parts in (n for n in range(2, len(ids) // 2 + 1) if len(ids) % n == 0):
                yield _equal(ids.view(parts, -1))
                yield _equal(ids.view(-1, parts).T)

    def adapts(self, moved: Tensor, joint: Joint, ties: Ties) -> bool:
        """Whether the call gives of fewer entries what is left of ``moved``, which it gives of all.

        Args:
            moved: Its result.
            joint: Which entries are in it where, if any are.
            ties: Which go together, besides those that end up in one.
        """
        known = [*self.call.following.ties, *self._merged(joint), *ties]
        one = joined(self.call.following.num_ids, known)[self.ids] + self.call.following.num_ids * self.twins
        if any(len(s.index) > 1 and len(one[s.numbers].unique()) == 1 for s in self.sources.values()):
            return False
        tried = False
        for removed in _removals(one.unique()):
            gone = torch.isin(one, removed)
            if any(bool(gone[s.numbers].all()) for s in self.sources.values()):
                continue
            stays = (joint.first == UNKNOWN) | ~gone[joint.first]
            left = moved.index_select(joint.axis, stays.nonzero()[:, 0]) if joint.size else moved
            found = self.run(gone)
            if found is None or not torch.equal(found, left):
                return False
            tried = True
        return tried

    def step(self, joint: Joint, ties: Ties) -> Step:
        """The call as a step: its result has one feature for each slice.

        Args:
            joint: Which numbers each slice holds.
            ties: Which go together, besides those that end up in one.
        """
        if not joint.size:
            return Step()
        held = joint.first == UNKNOWN
        ids = self.ids[joint.first]
        ids[held] = self.call.following.fresh(int(held.sum()))
        out = Features(ids, self._value(joint), joint.axis, len(self.call.shapes[self.call.node]))
        flows = [flow for source in self.sources.values() for flow in _flows(source, joint)]
        holds = [ids[held]] if bool(held.any()) else []
        return Step(out, flows=flows, holds=holds, ties=[*self._merged(joint), *ties])

    def _value(self, joint: Joint) -> Tensor:
        """The constants that all entries of a slice are."""
        first = torch.where(joint.first == UNKNOWN, torch.nan, self.values[joint.first])
        same = self.values[joint.number] == first[joint.place]
        return first.index_fill(0, joint.place[~same], torch.nan)

    def _merged(self, joint: Joint) -> Ties:
        """Entries in one slice go together."""
        again = (joint.place[1:] == joint.place[:-1]).nonzero()[:, 0]
        return [(self.ids[joint.number[again]], self.ids[joint.number[again + 1]])] if len(again) else []


def _flows(source: Source, joint: Joint) -> Iterator[Flow]:
    """How the entries of a tensor get into slices: the first ones of every slice, the second ones, and so on."""
    inside = torch.isin(joint.number, source.numbers)
    place, entry = joint.place[inside], source.index[joint.number[inside] - source.start]
    size = len(source.x)
    pairs = (place * size + entry).unique()
    place, entry = pairs // size, pairs % size
    turn = torch.arange(len(place)) - torch.searchsorted(place, place)
    for k in range(int(turn.max()) + 1 if len(turn) else 0):
        yield Flow(source.node, entry[turn == k], place[turn == k])


def _equal(groups: Tensor) -> Ties:
    """What goes in one row goes in all."""
    return [(groups[0], row) for row in groups[1:]]


def _removals(classes: Tensor, singly: int = 8) -> Iterator[Tensor]:
    """Some of the sets of entries that might go: each class, or three of many; two halves; and all classes but one."""
    if len(classes) < 2:
        return
    chosen = range(len(classes)) if len(classes) <= singly else (0, len(classes) // 2, len(classes) - 1)
    for k in chosen:
        yield classes[k : k + 1]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        yield classes[torch.randperm(len(classes), generator=generator)[: len(classes) // 2]]
    yield classes[1:]
