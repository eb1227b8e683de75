"""Which structures go, given a score for each: what methods that rank units and filters have in common."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.graph.groups import groups
from bayesprune.layers import gates_of
from bayesprune.methods.protocol.method import Method
from bayesprune.methods.protocol.records import Decision, Needs, Phase
from bayesprune.methods.protocol.run import Run
from bayesprune.methods.protocol.stats import Statistic
from bayesprune.pruning.expected import ExpectedCost


class Ranked(Method):
    """Trains, removes the structures of the least score until a share of the multiply-adds is left, and trains on.

    What is ranked are units, filters and heads that have gates and can go, of which every gate keeps one; gates on
    inputs and on branches stay. The fewest go that bring the network down to the target.

    Args:
        macs: Which share of the multiply-adds is to be left.
        layerwise: Whether the same share of each gate's structures goes, rather than the least of all together.
        until: After which share of the run they go.

    Raises:
        ConfigError: for shares outside (0, 1); and before training, if there is nothing to rank or too little can go.

    Examples:
        >>> class First(Ranked):  # the first units of each layer stay
        ...     name = "first"
        ...     def scores(self, run, found):
        ...         return [-torch.arange(group.size, dtype=torch.float) for group in found]
        >>> First(macs=0.25).options()
        {'macs': 0.25, 'layerwise': False, 'until': 0.5}
    """

    statistics: ClassVar[tuple[Statistic, ...]] = ()
    """What `scores` asks the run for."""
    lacks: ClassVar[str] = ""
    """What is said where there are structures that can go, and `may_go` lets none of them."""

    @checked_arguments
    def __init__(self, macs: float = 0.5, layerwise: bool = False, until: float = 0.5):
        super().__init__()
        kind = self.name
        self.macs = real(f"{kind}: macs", macs, 0, 1)
        self.layerwise = layerwise
        self.until = real(f"{kind}: until", until, 0, 1)

    def may_go(self, net: nn.Module, group: Group) -> bool:
        """Whether the structures of a group can be scored; others stay.

        Args:
            net: The network.
            group: Structures that layers write, and that can go.
        """
        return True

    @abstractmethod
    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """How much each structure is worth, shape ``(size,)`` for each group.

        Args:
            run: The run.
            found: The groups of structures that may go.
        """

    def setup(self, run: Run) -> Needs:
        """Train, then go on with what is left; the rates of both begin anew.

        Raises:
            ConfigError: if there is nothing to rank, or too little can go.
        """
        net = run.net.net
        found = self.ranked(net, run.example)
        if not found:
            raise ConfigError(f"{self.name}: {nothing_ranked(net, run.example, self.lacks)}")
        _fewest(
            _by_score([torch.zeros(group.size) for group in found]), found, share_without(net, run.example), self.macs
        )
        phases = Phase("train", share=self.until), Phase("tune", share=1 - self.until)
        return Needs(phases, stats=self.statistics)

    def decide(self, run: Run) -> Decision:
        """Switch off what is worth least, as the first phase ends."""
        if run.phase.name != "train":
            return Decision()
        net = run.net.net
        found = self.ranked(net, run.example)
        scores = self.scores(run, found)
        order = _by_share(scores) if self.layerwise else _by_score(scores)
        off = _fewest(order, found, share_without(net, run.example), self.macs)
        return Decision(off=off)

    def ranked(self, net: nn.Module, example: Inputs) -> list[Group]:
        """The groups of structures that are ranked.

        Args:
            net: The network.
            example: Inputs.
        """
        return [group for group in ranked_groups(net, example) if self.may_go(net, group)]


def ranked_groups(net: nn.Module, example: Inputs) -> list[Group]:
    """The groups of several structures that layers write, that can go, and that gates of their size decide about.

    Args:
        net: The network.
        example: Inputs.
    """
    sizes = {name: gate.size for name, gate in gates_of(net).items()}
    return [
        group
        for group in groups(net, example_input=example)
        if group.size > 1 and group.written and group.can_go and {sizes[name] for name in group.gates} == {group.size}
    ]


def nothing_ranked(net: nn.Module, example: Inputs, lacks: str = "") -> str:
    """Why no structure is ranked, for messages.

    Args:
        net: The network.
        example: Inputs.
        lacks: What is said where there are structures that can go.
    """
    if ranked_groups(net, example):
        return lacks
    stays = [g for g in groups(net, example_input=example) if g.gates and g.size > 1 and not g.can_go]
    if stays:
        return f"no unit or filter that has a gate can go: what {stays[0].gates[0]!r} gates {stays[0].reason}"
    return "no gate holds several units or filters that can go; put gates on layers, or let bp.convert put them"


def _by_score(scores: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Groups and indices of structures in the order in which they go, the best of each group left out."""
    every = [
        (float(score), number, s)
        for number, part in enumerate(scores)
        for s, score in enumerate(part)
        if s != int(part.argmax())
    ]
    return [(number, s) for _, number, s in sorted(every)]


def _by_share(scores: Sequence[Tensor]) -> list[tuple[int, int]]:
    """As `_by_score`, by the share of their group that is worth less."""
    return _by_score([part.argsort(stable=True).argsort(stable=True) / len(part) for part in scores])


def share_without(net: nn.Module, example: Inputs) -> Callable[[Mapping[str, Tensor]], float]:
    """What gives the share of multiply-adds that is left without some structures.

    Args:
        net: The network.
        example: Inputs.

    Returns:
        A function of those that are off, bool by gate name.
    """
    expected = ExpectedCost(net, example, ("macs",))
    modes = {name: gate.mode() for name, gate in gates_of(net).items()}
    whole = float(expected(modes)["macs"])

    def share(off: Mapping[str, Tensor]) -> float:
        theta = {name: mode * (~off[name]).to(mode) if name in off else mode for name, mode in modes.items()}
        return float(expected(theta)["macs"]) / whole

    return share


def _fewest(
    order: Sequence[tuple[int, int]],
    found: Sequence[Group],
    share: Callable[[Mapping[str, Tensor]], float],
    goal: float,
) -> dict[str, Tensor]:
    """The first structures of an order that have to go for a share of the multiply-adds to be left, by name of a gate.

    Args:
        order: Groups and indices of structures.
        found: The groups.
        share: What is left without some.
        goal: What is to be left.

    Raises:
        ConfigError: if more is left without all of them.
    """

    def without(count: Any) -> dict[str, Tensor]:
        off = {name: torch.zeros(group.size, dtype=torch.bool) for group in found for name in group.gates}
        for number, s in order[:count]:
            for name in found[number].gates:
                off[name][s] = True
        return off

    least = share(without(len(order)))
    if least > goal:
        raise ConfigError(
            f"macs={goal} cannot be reached: with one structure in each layer that has gates {least:.3f} of the "
            "multiply-adds are left; give more, or put gates on more layers"
        )
    return without(bisect_left(range(len(order)), True, key=lambda count: share(without(count)) <= goal))
