"""Switch off structures that have to go, whatever the data say: those that do the least harm for what they save."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bayesprune.errors import GateError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.multiplier import NEGLIGIBLE
from bayesprune.pruning import shrink

PART = 32
"""One of so many of the structures that are left may go before it is asked anew what each of them saves."""


class Removable:
    """Which structures may be switched off: branches, and units as long as their layer keeps one.

    Any other gate that holds one structure may go if no layer is left without inputs by it.

    Args:
        net: The network.

    Examples:
        >>> from torch import nn
        >>> from bayesprune import layers
        >>> net = BayesianNet(nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Linear(3, 1)), num_data=10)
        >>> Removable(net).least()
        tensor([ True, False, False])
    """

    def __init__(self, net: BayesianNet):
        self.net = net
        self._gate_of = [gate for gate, size in enumerate(net.draw.sizes) for _ in range(size)]

    def __call__(self, on: Tensor, s: int) -> bool:
        """Whether structure ``s`` may go.

        Args:
            on: Structures that are on, shape ``(S,)``, bool, on the CPU; s is one of them.
            s: Its index.
        """
        name = self.net.gate_names[self._gate_of[s]]
        part = self.net.by_gate(on)[name]
        if self.net.is_branch(name) or int(part.sum()) > 1:
            return True
        if len(part) > 1:
            return False
        fewer = on.clone()
        fewer[s] = False
        try:
            shrink(self.net.net, self.net.by_gate(~fewer), example_input=self.net.example_input)
        except GateError:
            return False
        return True

    def least(self) -> Tensor:
        """The structures that are left when all go that may, shape ``(S,)``, bool: of a layer, its first."""
        on = torch.zeros(self.net.num_gates, dtype=torch.bool)
        firsts = [self._gate_of.index(gate) for gate in range(len(self.net.gate_names))]
        on[firsts] = True
        for s in firsts:
            on[s] = not self(on, s)
        return on


def switch_off(
    on: Tensor,
    harm: Tensor,
    savings: Callable[[Tensor], tuple[float, Tensor]],
    goal: float,
    may_go: Callable[[Tensor, int], bool],
) -> Tensor:
    """Take structures out of ``on``, in the order of harm for what they save now, until the cost is at most ``goal``.

    Where there are many, some go at a time, and of the last ones no more than it takes.

    Args:
        on: Structures that are on, shape ``(S,)``, bool.
        harm: By how much the loss rises without each, nats per example, not negative.
        savings: The cost of the network that keeps a mask of structures, and what each saves, in any unit.
        goal: What the cost is to come down to; at least one structure goes.
        may_go: Whether a structure of a mask may; one that may not now may not later either.

    Returns:
        Those that are left on; as they were if none may go.
    """
    on, candidates = on.clone(), on.clone()
    cost, saving = savings(on)
    while bool(candidates.any()):
        going = []
        for s in _least_harmful(candidates, harm, saving):
            candidates[s] = False
            if may_go(on, s):
                on[s] = False
                going.append(s)
        cost, saving = savings(on)
        if going and cost <= goal:
            return _as_few(on, torch.tensor(going), lambda some: savings(some)[0] > goal)
    return on


def _as_few(on: Tensor, going: Tensor, too_dear: Callable[[Tensor], bool]) -> Tensor:
    """The structures in ``on`` and the last ones of ``going``, as many as there can be, at least one left out.

    Args:
        on: Structures that are on without those, shape ``(S,)``, bool.
        going: Structures in the order in which they go.
        too_dear: Says of structures whether they cost too much.
    """
    short = longest_start(going, lambda gone: too_dear(on.index_fill(0, going[len(gone) :], True)))
    return on.index_fill(0, going[len(short) + 1 :], True)


def _least_harmful(candidates: Tensor, harm: Tensor, saving: Tensor) -> list[int]:
    """Of the candidates those that do the least harm for what they save: one of ``PART``, of few but one.

    Of those that do as much, the one that saves most comes first.
    """
    saving = saving.clamp(min=NEGLIGIBLE * float(saving.max()))
    chosen = candidates.nonzero()[:, 0]
    chosen = chosen[saving[chosen].argsort(descending=True, stable=True)]
    chosen = chosen[(harm / saving)[chosen].argsort(stable=True)]
    return chosen[: max(1, len(chosen) // PART)].tolist()


def switch_on(on: Tensor, harm: Tensor, savings: Callable[[Tensor], tuple[float, Tensor]], limit: float) -> Tensor:
    """Take structures into ``on``, in the order of harm for what they save, as far as the cost stays within a limit.

    The cost c is linear in each gate, so what any one of them adds is known of all at once: √c times ∂ 2√c.

    Args:
        on: Structures that are on, shape ``(S,)``, bool.
        harm: By how much the loss rises without each, nats per example; only those above 0 are taken.
        savings: The cost c of the network that keeps a mask of structures, and ∂ 2√c of each gate.
        limit: What the cost may be.

    Returns:
        Those that are on then.
    """
    cost, saving = savings(on)
    fits = ~on & (harm > 0) & (saving * math.sqrt(cost) <= limit - cost)
    ratio = (harm / saving.clamp(min=NEGLIGIBLE * float(saving.max()))).masked_fill(~fits, -torch.inf)
    best = ratio.argsort(descending=True)[: int(fits.sum())]
    taken = longest_start(best, lambda some: savings(on.index_fill(0, some, True))[0] <= limit)
    return switch_on(on.index_fill(0, taken, True), harm, savings, limit) if len(taken) else on


def longest_start(order: Tensor, holds: Callable[[Tensor], bool]) -> Tensor:
    """The longest start of ``order`` of which something holds, as it does of each shorter one; found by halving.

    Args:
        order: Structures.
        holds: Says of a start whether it does.
    """
    return order[: bisect_left(range(1, len(order) + 1), True, key=lambda count: not holds(order[:count]))]


@contextmanager
def only_on(net: BayesianNet, on: Tensor) -> Iterator[None]:
    """Let the gates in ``on``, and no others, be on within the context.

    Args:
        net: The network.
        on: Structures that are on, shape ``(S,)``, bool.
    """
    theta = net.theta.detach()
    before = theta.clone()
    try:
        theta.copy_(on)
        yield
    finally:
        theta.copy_(before)
