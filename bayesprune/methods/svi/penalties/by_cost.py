"""Prices that follow what structures are expected to save (method page, "Prices that follow the cost")."""

from __future__ import annotations

from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.penalties.base import Penalty
from bayesprune.methods.svi.penalties.relative import RelativeCost
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.pruning import CostPrice, cost

FIRST_FACTOR, FULL_FROM = 0.2, 0.5
"""With which share of ν sampling begins, and after which share of it ν has its full size."""


def price_factor(schedule: Schedule, step: int) -> float:
    """Factor on ν: from a fifth to 1 over the first half of sampling.

    Args:
        schedule: The phases of the run.
        step: A step of the weights.
    """
    return min(1.0, FIRST_FACTOR + (1 - FIRST_FACTOR) * schedule.sampling_done(step) / FULL_FROM)


class CostPenalty(Penalty):
    """ρ_s = ν ∂ 2√c / ∂θ_s, c the expected relative cost at θ, with a ν that rises to that of a `CostPrice`.

    Args:
        net: The network, with all of its structures.
        example: One input, shape ``(1, ...)``, where the network is.
        price: ν, what cost is made of, and what counts as 1.
        schedule: The phases of the run.
        temperature: How much of the divergence of Normal weights counts in the end.
    """

    def __init__(self, net: BayesianNet, example: Inputs, price: CostPrice, schedule: Schedule, temperature: float):
        super().__init__(net, schedule, temperature)
        self.price = price.relative_to(cost(net, example))
        self._cost = RelativeCost(net, example, self.price.weights, self.price.costs)
        self.update(0)

    def _follow(self, step: int, differences: Tensor | None) -> None:
        self.expected, savings = self._cost.savings(self.net.theta.detach())
        self.nu = self.price.nu * price_factor(self.schedule, step)
        self._cost.charge(self.nu, savings)
