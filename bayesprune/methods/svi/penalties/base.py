"""What every penalty on structures does for the run that it is part of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.normal_weights import divergence_share
from bayesprune.methods.svi.penalties.relative import RelativeCost
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.schema import Check, record

UPDATES = 20
"""How often prices follow θ during sampling at least, if it has as many steps."""
PRICE = "The price (log_gamma, or nu of CostPrice) is too high"


class Penalty(ABC):
    """Sets log γ_s, and with it the price ρ_s = (log γ_s + D_s)/N of every structure, as a run goes on.

    D_s, what the Normal weights of a structure cost, follows them at every `update`, whatever the kind of penalty.

    Args:
        net: The network that is trained.
        schedule: The phases of the run.
        temperature: How much of D_s counts in the end.

    Attributes:
        nu: ν, what the whole cost of the network is worth, times one half, nats per example; NaN where prices are
            constant.
        expected: Expected cost relative to the reference, as of the last update; NaN where prices are constant.
        needs_differences: Whether `update` is to be told the differences in loss while sampling, too.
        blame: What asks for too much where a layer is emptied.
    """

    needs_differences: ClassVar[bool] = False
    blame: str = PRICE
    _cost: RelativeCost

    def __init__(self, net: BayesianNet, schedule: Schedule, temperature: float):
        self.net, self.schedule, self._temperature = net, schedule, temperature
        self.nu = self.expected = math.nan

    def update(self, step: int, differences: Tensor | None = None) -> None:
        """Let prices follow θ and the weights.

        Args:
            step: The step that is done.
            differences: New estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``, NaN before
                there is one; ``None`` if there are none.
        """
        self.net.refresh(self._temperature * divergence_share(self.schedule, step))
        self._follow(step, differences)

    def due(self, step: int) -> bool:
        """Whether prices are to follow θ after this step of sampling: some times an epoch, and in the phase."""
        schedule = self.schedule
        length = schedule.settle_start - schedule.sample_start
        every = max(1, min(schedule.settle_every, length // UPDATES))
        return schedule.phase(step) == "sample" and (step - schedule.sample_start) % every == 0

    @abstractmethod
    def _follow(self, step: int, differences: Tensor | None) -> None:
        """Set log γ; arguments as those of `update`."""

    def rebuild(self) -> None:
        """Go on with a network that became smaller."""
        self._cost.rebuild()

    def saved_macs(self, off: Tensor) -> float:
        """What the removal of structures whose gates are off saves, see `RelativeCost.saved_macs`."""
        return self._cost.saved_macs(off)

    def may_go(self, off: Tensor, net_cost: Tensor) -> Tensor:
        """Those of the structures in ``off`` that may be removed before θ rests, shape ``(S,)``, bool: all of them.

        Args:
            off: Structures whose gates are off for good, bool, shape ``(S,)``.
            net_cost: What each of all costs more than it brings, nats per example, shape ``(S,)``.
        """
        return off

    def approach(self, step: int, differences: Tensor) -> None:  # noqa: B027
        """While gates settle that were not sampled: switch off what has to go by now.

        Args:
            step: The step that is done.
            differences: Latest estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``.
        """

    def enforce(self, differences: Tensor) -> Tensor:
        """At the end of settling: switch off what has to go, whatever the data say.

        Args:
            differences: Latest estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``.

        Returns:
            Which structures are off for the sake of a budget, whatever the data say, shape ``(S,)``, bool.
        """
        return torch.zeros(len(differences), dtype=torch.bool)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {}

    def schema(self) -> Check:
        """What `state` looks like, for those who read it from a file."""
        return record({})

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint, with the network as it is now."""
        self.rebuild()
