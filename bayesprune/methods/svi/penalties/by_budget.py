"""Prices whose ν is found while training, so that the network meets a budget (method page, "A budget")."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.enforcement import Removable, longest_start, only_on, switch_off, switch_on
from bayesprune.methods.svi.multiplier import Multiplier, dual_maximiser
from bayesprune.methods.svi.penalties.base import Penalty
from bayesprune.methods.svi.penalties.relative import RelativeCost
from bayesprune.methods.svi.penalties.timing import Timing
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.pruning import compact, cost
from bayesprune.schema import Check, items, number, optional, record, table

MARGIN = 0.99
"""What share of the budget is aimed at, so that small errors at the end do not exceed it."""

TINY = 1e-12
"""The least harm, nats per example."""
MET_BY = 0.8
"""After which share of sampling a budget is to be met."""


def budget_share(schedule: Schedule, step: int) -> float:
    """How far a target cost has come down to its budget: from 0 to 1 over most of sampling.

    Args:
        schedule: The phases of the run.
        step: A step of the weights.
    """
    return min(1.0, schedule.sampling_done(step) / MET_BY)


class BudgetPenalty(Penalty):
    """ρ_s = ν ∂ 2√c / ∂θ_s, with a ν that dual ascent finds, so that c(θ) comes down to a `Budget`.

    From the end of settling on ``expected`` is the cost of the network that `compact` gives.

    Args:
        net: The network, with all of its structures.
        example: One input, shape ``(1, ...)``, where the network is.
        budget: What the network may cost in the end.
        schedule: The phases of the run.
        temperature: How much of the divergence of Normal weights counts in the end.
        broadcast: Gives every process what process 0 passes.

    Raises:
        ConfigError: for a budget below what is left when all structures are off that may be.
    """

    needs_differences = True

    def __init__(
        self,
        net: BayesianNet,
        example: Inputs,
        budget: Budget,
        schedule: Schedule,
        temperature: float,
        broadcast: Callable[[Any], Any],
    ):
        super().__init__(net, schedule, temperature)
        self.example, self.budget = example, budget
        self.blame = f"The budget {budget} is too low"
        self._multiplier = Multiplier()
        self._timing = Timing(net, example, broadcast) if budget.measure == "latency" else None
        self._latency = None if self._timing is None else self._timing.operations()
        self._at_rest: float | None = None
        reference = None if self._timing is None else {"latency": 1.0}
        self._cost = RelativeCost(net, example, {budget.measure: 1.0}, reference, self._latency)
        self._check_reachable()
        self.update(0)
        self._beginning = self.expected

    def rebuild(self) -> None:
        """Go on with a network that became smaller."""
        self._latency = None if self._timing is None else self._timing.operations()
        self._cost.rebuild(self._latency)

    def _follow(self, step: int, differences: Tensor | None) -> None:
        self.expected, savings = self._cost.savings(self.net.theta.detach())
        self.expected = self.expected if self._at_rest is None else self._at_rest
        if differences is not None:
            self._ascend(step, self._unpriced(differences), savings)
        self.nu = self._multiplier.value
        self._cost.charge(self.nu, savings)

    def _unpriced(self, differences: Tensor) -> Tensor:
        """What keeping structures costs besides their price: what the data say, and the divergence of their weights."""
        return (differences + self.net.weights_cost / self.net.num_data).cpu()

    def _ascend(self, step: int, differences: Tensor, savings: Tensor) -> None:
        """One step of dual ascent."""
        if len(savings) == 0 or bool(differences.isnan().any()):
            return
        target = self._target(step)
        best = dual_maximiser(differences, savings, target, self._cost)
        self._multiplier.step(self.expected, target, best)

    def _target(self, step: int) -> float:
        """What the cost is to have come down to after this step."""
        share = budget_share(self.schedule, step)
        return float(self._beginning ** (1 - share) * (MARGIN * self.budget.fraction) ** share)

    def approach(self, step: int, differences: Tensor) -> None:
        """Take every gate to 0 or 1, such that the network costs what the target of this step allows, and no more.

        What does the least harm for what it saves is off; what is off comes back as long as it was not removed.

        Args:
            step: The step that is done.
            differences: Latest estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``.
        """
        on, target = (self.net.theta.detach() > 0.5).cpu(), self._target(step + 1)
        harm = self._harm(differences).clamp(min=TINY)  # what seems of no use fills up what a large structure has left
        if not len(on):
            return
        if self._cost(on) > target:
            on = switch_off(on, harm, self._cost.savings, target, Removable(self.net))
        on = switch_on(on, harm, self._cost.savings, target)
        with torch.no_grad():
            self.net.theta.copy_(on)

    def _harm(self, differences: Tensor) -> Tensor:
        """By how much the loss rises without each, nats per example, not negative; shape ``(S,)``."""
        return (-self._unpriced(differences)).nan_to_num().clamp(min=0)

    def may_go(self, off: Tensor, net_cost: Tensor) -> Tensor:
        """As many of them as leave what the budget pays for, the dearest first: others come back as a ν too high falls.

        Args:
            off: Structures whose gates are off for good, bool, shape ``(S,)``.
            net_cost: What each of all costs more than it brings, nats per example, shape ``(S,)``.
        """
        dearest = net_cost.masked_fill(~off, -torch.inf).argsort(descending=True)[: int(off.sum())].cpu()
        whole, fraction = torch.ones(len(off)), self.budget.fraction
        going = longest_start(dearest, lambda gone: self._cost(whole.index_fill(0, gone, 0)) >= fraction)
        return torch.zeros_like(off).index_fill_(0, going.to(off.device), True)

    # the end of settling -------------------------------------------------------------------------------------------

    def enforce(self, differences: Tensor) -> Tensor:
        """Hold the gates' mode to the budget.

        Where it costs more, what does the least harm is switched off, with a warning. Where it costs less by then, what
        is of use is switched on again, as far as the budget pays for it: what had gone by a ν that was too high, and
        what had to go before a structure that saves much more than was missing.

        Args:
            differences: Latest estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``.

        Returns:
            Which structures are off for the sake of the budget: those that were on, and those that are worth more to
            the data than they cost and that it does not pay for; shape ``(S,)``, bool, on the CPU.
        """
        before = on = (self.net.theta.detach() > 0.5).cpu()
        wanted = (differences + self.net.price).cpu() < 0
        harm = self._harm(differences)
        may_go = Removable(self.net)
        left = self._compacted(on)
        while left > self.budget.fraction:
            goal = self._cost(on) * self.budget.fraction / left
            fewer = switch_off(on, harm, self._cost.savings, goal, may_go)
            if torch.equal(fewer, on):
                break
            on, left = fewer, self._compacted(fewer)
        if len(on):  # what seems of no use had not to go either where there is room for it
            on, left = self._filled(on, left, harm.where(~before | on, harm.clamp(min=TINY)))
        self._at_rest = left
        self._set(on & ~before, 1.0)
        self._switch_off(before & ~on, int(before.sum()))
        return ~on & (before | wanted)

    def _filled(self, on: Tensor, left: float, harm: Tensor) -> tuple[Tensor, float]:
        """The structures in ``on``, which cost ``left``, and others of use that the budget pays for; what all cost.

        What they cost is counted of the compacted network; where that is too much, fewer are tried.
        """
        limit = MARGIN * self.budget.fraction * self._cost(on) / left
        while not torch.equal(more := switch_on(on, harm, self._cost.savings, limit), on):
            if (filled := self._compacted(more)) <= self.budget.fraction:
                return more, filled
            limit *= MARGIN * self.budget.fraction / filled
        return on, left

    def _set(self, chosen: Tensor, theta: float) -> None:
        """Set θ of the structures in ``chosen``, bool, shape ``(S,)``."""
        with torch.no_grad():
            self.net.theta[chosen.to(self.net.theta.device)] = theta

    def _switch_off(self, forced: Tensor, before: int) -> None:
        """Set θ of the structures in ``forced`` to 0, and say how many of those ``before`` they are."""
        count = int(forced.sum())
        if count:
            self._set(forced, 0.0)
            warnings.warn(
                f"{count} of {before} structures had to be switched off at the end of settling to meet the "
                f"budget {self.budget}; {self._at_rest:.4f} are left. A longer run settles closer to it",
                stacklevel=3,
            )

    def _compacted(self, on: Tensor) -> float:
        """What the network compacted to the structures in ``on`` costs, relative to the reference."""
        with only_on(self.net, on):
            small = compact(self.net)
        if self._timing is not None:
            return self._timing.share(small)
        measure = self.budget.measure
        return getattr(cost(small, self.example), measure) / self._cost.reference[measure]

    def _check_reachable(self) -> None:
        """Refuse a budget that cannot be met."""
        budget, least = self.budget, self._compacted(Removable(self.net).least())
        if least > budget.fraction:
            lowest = math.ceil(least * 1000) / 1000
            advice = f"the least budget is {budget.measure}={lowest:g}. Gate more of the network, or raise the budget"
            if lowest >= 1:  # seconds of a network that is small already
                advice = f"no budget of {budget.measure} can be met. Give one of another measure, such as macs"
            raise ConfigError(
                f"fit: the budget {budget} is below what the kept structures cost: with every structure off that may "
                f"go, {least:.4f} of {budget.measure} are left, so {advice}"
            )

    # checkpoints ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "multiplier": self._multiplier.value,
            "beginning": self._beginning,
            "reference": self._cost.reference,
            "latency": self._latency,
            "at_rest": self._at_rest,
        }

    def schema(self) -> Check:
        """What `state` looks like."""
        return record(
            {
                "multiplier": number(),
                "beginning": number(finite=False),
                "reference": table(number()),
                "latency": optional(items(items(number(0)), 2, 2)),
                "at_rest": optional(number()),
            }
        )

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint, with the network as it is now."""
        self._multiplier.value, self._beginning = state["multiplier"], state["beginning"]
        self._latency, self._at_rest = state["latency"], state["at_rest"]
        self._cost.reference = state["reference"]
        self._cost.rebuild(self._latency)
