"""Switch off structures that have to go, whatever the data say: those that do the least harm for what they save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bayesprune.errors import GateError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.multiplier import NEGLIGIBLE
from bayesprune.pruning import shrink


class Removable:
    """Which structures may be switched off: branches, and units as long as their layer keeps one.

    Any other gate that holds one structure may go if no layer is left without inputs by it.

    Args:
        net: The network.

    Example:
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
    _, saving = savings(on)
    while bool(candidates.any()):
        saving = saving.clamp(min=NEGLIGIBLE * float(saving.max()))
        ratio = torch.where(candidates, harm / saving, torch.inf)
        chosen = int(torch.where(ratio == ratio.min(), saving, -1.0).argmax())
        candidates[chosen] = False
        if not may_go(on, chosen):
            continue
        on[chosen] = False
        cost, saving = savings(on)
        if cost <= goal:
            break
    return on


def switch_on(on: Tensor, worth: Tensor, cost: Callable[[Tensor], float], limit: float) -> Tensor:
    """Take structures into ``on``, those of most worth first, as far as the cost stays within a limit.

    Args:
        on: Structures that are on, shape ``(S,)``, bool.
        worth: Of each structure, what it brings for what it costs; only those above 0 are taken.
        cost: The cost of the network that keeps a mask of structures.
        limit: What it may be.

    Returns:
        Those that are on then.
    """
    for s in torch.where(on, 0, worth).argsort(descending=True).tolist():
        if on[s] or worth[s] <= 0:
            break
        more = on.clone()
        more[s] = True
        on = more if cost(more) <= limit else on
    return on


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
