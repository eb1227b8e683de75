"""A call, made on tensors that hold at every position the number of the entry that is there.

Its result tells where entries go, and which of them end up in one: these go together. It is then made again as it would
be after a removal, on tensors with fewer entries and with the sizes that forward reads of them. Only if that gives what
is left of the first result, in its order, does the call keep working in a smaller network.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bayesprune.errors import TraceError
from bayesprune.ops.features import Features, Flow, Stay, Step
from bayesprune.ops.joint import NOTHING, Joint, Ties, equal_rows, removals, slices_along
from bayesprune.ops.literals import Literals, candidates
from bayesprune.ops.numbered import UNKNOWN, Numbered, Source
from bayesprune.ops.ties import joined_within


class Numbers(Numbered):
    """Where a call takes the entries of the tensors that it depends on, and whether it would take fewer there.

    Args:
        call: The call.
        shapes: The shapes of all tensors for a few examples, so that none is taken for an axis of length 1.

    Examples:
        >>> from bayesprune.graph import Analysis, trace
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 1), torch.nn.ChannelShuffle(2))
        >>> steps = Analysis(trace(net, torch.zeros(1, 2, 3, 3)), {}).steps.values()
        >>> [step.out.ids.tolist() for step in steps if step.out]
        [[0, 1, 2, 3], [0, 2, 1, 3]]
    """

    def with_fewer(self) -> tuple[Joint, Ties] | None:
        """What ends up where, and what besides must go together for the call to do the same to fewer entries."""
        shape, alone = self.call.shapes[self.call.node], bool(self.twins.any())
        real = self.run(self.twins) if alone else self.run()
        moved = real if not alone else self._with_twins(real) if self.literals else self.run()
        if moved is None or real is None or not moved.dim() == real.dim() == len(shape):  # one dropped for one example
            return None
        if bool((moved == UNKNOWN).all()):
            return (NOTHING, []) if self.adapts(moved, NOTHING, []) else None
        joints = [
            Joint.of(axis, slices)
            for axis in range(moved.dim())
            if shape[axis] == real.shape[axis]
            and _differ(slices := slices_along(moved, axis))  # no examples lie along it
        ]
        if self.call.following.parts:  # heads come before what is within them
            joints.reverse()
        merging: list[tuple[Joint, Ties]] = []  # by these, slices that would go one by one go together: they come last
        for joint in joints:
            groups = self.groups(joint, [])
            for ties in self.guesses(joint):
                if ties and self.groups(joint, ties) < groups:
                    merging.append((joint, ties))
                elif self.adapts(moved, joint, ties):
                    return Joint.of(joint.axis, slices_along(real, joint.axis)), ties
        for joint, ties in merging:
            if self.adapts(moved, joint, ties):
                return Joint.of(joint.axis, slices_along(real, joint.axis)), ties
        return None

    def wanted(self) -> list[int]:
        """The tensors, by their places, whose entries the call wants: with fewer of one it gives another result.

        Of others it is given sizes that removal leaves alone.
        """
        moved, found = self.run(), []
        for place, source in enumerate(self.sources.values()):
            for places in (source.numbers[:1], source.numbers[-1:], source.numbers[1::2], source.numbers[1:]):
                left = self.run(torch.isin(torch.arange(len(self.ids)), places))
                if moved is None or left is None or not torch.equal(left, moved):
                    found.append(place)
        return list(dict.fromkeys(found))

    def _with_twins(self, real: Tensor | None) -> Tensor | None:
        """The call with every twin, for which numbers that are written out are doubled where that is right.

        Args:
            real: What it gives without them.
        """
        double = [(n, 2 * n) for numbers in self.literals.values() for n in numbers if isinstance(n, int)]
        for literals in candidates(self.literals, double, []):
            moved = self.run(None, literals)
            if moved is None or real is None:
                continue
            for axis in range(moved.dim()):
                stays = ~torch.isin(slices_along(moved, axis)[:, 0], self.twins.nonzero()[:, 0])
                if torch.equal(moved.index_select(axis, stays.nonzero()[:, 0]), real):
                    return moved
        return None

    def guesses(self, joint: Joint) -> Iterator[Ties]:
        """Ties of numbers, besides those of entries in one, with which the call may keep working on fewer of them.

        None; those of tensors with as many entries (whose sizes it is given, say); those of the equal parts of one.
        """
        yield []
        moved = [s for s in self.sources.values() if bool(torch.isin(s.numbers, joint.number).any())]
        alike = [s for s in self.sources.values() if len(s.index) == len(moved[0].index) and s is not moved[0]]
        if alike:
            yield [(moved[0].numbers, s.numbers) for s in alike]
        if len(moved) == 1:
            numbers = moved[0].numbers
            written = [number for sizes in self.literals.values() for number in sizes]
            several = [n for n in range(2, len(numbers) // 2 + 1) if len(numbers) % n == 0]
            for parts in sorted(several, key=lambda n: n not in written and len(numbers) // n not in written):
                yield equal_rows(numbers.view(parts, -1))
                yield equal_rows(numbers.view(-1, parts).T)

    def groups(self, joint: Joint, ties: Ties) -> int:
        """How many groups of entries that are in slices go one by one.

        Args:
            joint: Which entries are in each slice.
            ties: Which numbers go together besides.
        """
        held = joint.number[joint.number != UNKNOWN]
        return len(joined_within(self.call.following.one, self.ids, self._tied(joint, ties))[held].unique())

    def adapts(self, moved: Tensor, joint: Joint, ties: Ties) -> bool:
        """Whether the call gives of fewer entries what is left of ``moved``, which it gives of all.

        Args:
            moved: Its result.
            joint: Which entries are in it where, if any are.
            ties: Which numbers go together, besides those that end up in one.
        """
        one = joined_within(self.call.following.one, self.ids, self._tied(joint, ties))
        one = one + (one.max() + 1) * self.twins
        if any(len(s.index) > 1 and len(one[s.numbers].unique()) == 1 for s in self.sources.values()):
            return False
        tried = False
        for removed in removals(one.unique()):
            gone = torch.isin(one, removed)
            if any(bool(gone[s.numbers].all()) for s in self.sources.values()):
                continue
            left = moved.index_select(joint.axis, _left(joint, gone)) if joint.size else moved
            if self.literals and not left.numel():
                continue  # one entry of every tensor stays
            if self.refitted(gone, moved, left) is None:
                return False
            tried = True
        return tried

    def refitted(self, gone: Tensor, moved: Tensor, left: Tensor) -> Literals | None:
        """Numbers to write in calls, with which the call gives ``left`` of fewer entries; ``None`` if there are none.

        Args:
            gone: The numbers that are left out, bool.
            moved: What it gives of all.
            left: What is left of that.
        """
        found = self.run(gone)
        if found is not None and torch.equal(found, left):
            return {}
        sizes = list(zip(moved.shape, left.shape, strict=True))
        stays = [~gone[source.numbers] for source in self.sources.values()]
        for literals in candidates(self.literals, sizes, stays) if self.literals else ():
            found = self.run(gone, literals)
            if found is not None and torch.equal(found, left):
                return literals
        return None

    def step(self, joint: Joint, ties: Ties) -> Step:
        """The call as a step: its result has one feature for each slice.

        Args:
            joint: Which numbers each slice holds.
            ties: Which numbers go together, besides those that end up in one.
        """
        if not joint.size:
            return self._refitting(Step(), joint)
        held = joint.first == UNKNOWN
        ids = self.ids[joint.first]
        ids[held] = self.call.following.fresh(int(held.sum()))
        out = Features(ids, self._value(joint), joint.axis, len(self.call.shapes[self.call.node]))
        flows = [flow for source in self.sources.values() for flow in _flows(source, joint)]
        holds = [ids[held]] if bool(held.any()) else []
        step = Step(out, flows=flows, holds=holds, ties=self._tied(joint, ties))
        return self._refitting(step, joint)

    def _refitting(self, step: Step, joint: Joint) -> Step:
        """The step, with the numbers that calls have to be written with once it is known which ids stay."""
        real = self.run(self.twins) if self.literals else None
        if real is None:
            return step

        def refit(stay: Stay) -> Literals:
            gone = ~stay(self.ids) | self.twins
            left = real.index_select(joint.axis, _left(joint, gone)) if joint.size else real
            literals = self.refitted(gone, real, left)
            if literals is None:
                raise TraceError(f"{self.call.name} cannot be written with the sizes that are left")
            return literals

        step.refit = refit
        return step

    def _value(self, joint: Joint) -> Tensor:
        """The constants that all entries of a slice are."""
        first = torch.where(joint.first == UNKNOWN, torch.nan, self.values[joint.first])
        same = self.values[joint.number] == first[joint.place]
        return first.index_fill(0, joint.place[~same], torch.nan)

    def _tied(self, joint: Joint, ties: Ties) -> Ties:
        """The ids of entries in one slice, and of others that go together.

        Args:
            joint: Which numbers each slice holds.
            ties: Which go together besides.
        """
        merged = [joint.together] if len(joint.together[0]) else []
        return [(self.ids[first], self.ids[second]) for first, second in [*merged, *ties]]


def _differ(slices: Tensor) -> bool:
    """Whether slices hold different numbers, and each holds numbers alone or none.

    Args:
        slices: Shape ``(size, ...)``.
    """
    unknown = slices == UNKNOWN
    return not bool((unknown != unknown[:, :1]).any()) and not bool((slices == slices[:1]).all())


def _left(joint: Joint, gone: Tensor) -> Tensor:
    """The slices that hold no number that is gone.

    Args:
        joint: Which numbers each slice holds.
        gone: Those that are gone, bool.
    """
    return ((joint.first == UNKNOWN) | ~gone[joint.first]).nonzero()[:, 0]


def _flows(source: Source, joint: Joint) -> Iterator[Flow]:
    """How the entries of a tensor get into slices: the first ones of every slice, the second ones, and so on."""
    inside = torch.isin(joint.number, source.numbers)
    place, entry = joint.place[inside], source.index[joint.number[inside] - source.start]
    size = len(source.x)
    pairs = (place * size + entry).unique()
    place, entry = pairs // size, pairs % size
    turn = torch.arange(len(place)) - torch.searchsorted(place, place)
    order, counts = turn.argsort(stable=True), turn.bincount().tolist()
    for src, dst in zip(entry[order].split(counts), place[order].split(counts), strict=True):
        yield Flow(source.node, src, dst)
