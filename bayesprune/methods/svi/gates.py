"""How θ moves, and what is known of every gate by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bayesprune.infer import BayesianNet
from bayesprune.layers.gate import INITIAL_THETA, Gate
from bayesprune.methods.svi.exact import ExactSteps
from bayesprune.methods.svi.sampled import SampledSteps
from bayesprune.methods.svi.schedule import is_deep
from bayesprune.schema import Check, record
from bayesprune.types import Evidence


@torch.no_grad()
def begin(net: BayesianNet) -> None:
    """Take θ of the gates that inference begins with another θ than they were built with there, see `Gate.begin`.

    Of the others, those of which a fixed prior is surer that they are on begin with its probability.
    """
    for gate, theta, prior in _as_built(net):
        if gate.begin is not None:
            theta.fill_(gate.begin)
        else:
            theta.clamp_(min=prior)


@torch.no_grad()
def begin_whole(net: BayesianNet) -> None:
    """In a deep network, let all gates whose θ are as they were built, and that have no other beginning, begin at 1."""
    if is_deep(net):
        for gate, theta, _ in _as_built(net):
            if gate.begin is None:
                theta.fill_(1.0)


def _as_built(net: BayesianNet) -> Iterator[tuple[Gate, Tensor, Tensor]]:
    """The gates whose θ nobody chose, with these and their prior means."""
    parts = net.by_gate(net.theta).values(), net.by_gate(net.prior().mean).values()
    for gate, theta, prior in zip(net.gates(), *parts, strict=True):
        if bool(torch.isclose(theta, torch.full_like(theta, INITIAL_THETA)).all()):
            yield gate, theta, prior


class GateUpdates:
    """The two kinds of steps of θ, and the estimates that the latest of them left behind.

    Args:
        net: The network whose θ is moved.
        mean: Averages a tensor over all processes; by default there is one.

    Attributes:
        sampled: Steps on sampled gradients.
        exact: Steps on exact differences, which come after them.

    Examples:
        >>> from torch import nn
        >>> from bayesprune import layers
        >>> net = BayesianNet(nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Linear(3, 1)), num_data=10)
        >>> updates = GateUpdates(net)
        >>> net.theta.grad = net.price.clone()  # the data say nothing
        >>> updates.sampled.step(size=0.2)  # from 0.9
        >>> net.theta.detach()
        tensor([0.7000, 0.7000, 0.7000])
    """

    def __init__(self, net: BayesianNet, mean: Callable[[Tensor], Tensor] = torch.clone):
        self.net, self.sampled, self.exact = net, SampledSteps(net, mean), ExactSteps(net, mean)

    @property
    def net_cost(self) -> Tensor:
        """Latest estimate of ∂L/∂θ for every gate, nats per example, shape ``(S,)``: the evidence for a removal."""
        exact, sampled = self.exact, self.sampled.net_cost
        return torch.where(exact.error.isinf(), sampled, exact.net_cost) if exact.evaluations else sampled

    @property
    def evidence(self) -> Evidence:
        """Price and net cost of every gate; the error of those that exact differences tell of, otherwise NaN."""
        error = self.exact.estimate()[1]
        known = error.isfinite() if self.exact.evaluations else torch.zeros_like(error, dtype=torch.bool)
        return Evidence(self.net.price, self.net_cost, torch.where(known, error, torch.nan))

    @property
    def differences(self) -> Tensor:
        """Latest estimate of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``; NaN before there is one.

        Derivatives alone, without a correction, tell of units of which nothing was sampled.
        """
        exact, sampled = self.exact, self.sampled.differences
        if not exact.evaluations:
            return sampled
        found, shared = exact.differences, self.net.num_shared
        unknown = exact.error.isinf()
        unknown[shared:] &= ~sampled[shared:].isnan()
        return torch.where(unknown, sampled, found)

    @property
    def least_cost(self) -> Tensor:
        """What `net_cost` is at least, as far as its error is known, see `ExactSteps.least_cost`; shape ``(S,)``."""
        return self.exact.least_cost if self.exact.evaluations else self.sampled.net_cost

    def keep(self, kept: Tensor) -> None:
        """Go on with the gates of these indices."""
        self.sampled.keep(kept)
        self.exact.keep(kept)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs: a copy."""
        return {"sampled": self.sampled.state(), "exact": self.exact.state()}

    def schema(self, gates: int) -> Check:
        """What `state` looks like with so many gates, for those who read it from a file."""
        return record({"sampled": self.sampled.schema(gates), "exact": self.exact.schema(gates)})

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.sampled.load(state["sampled"])
        self.exact.load(state["exact"])
