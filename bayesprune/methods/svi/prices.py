"""What structures cost while training: log γ follows the expected cost, and a budget's multiplier the violation."""

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
from bayesprune.methods.svi.budget import MARGIN, Budget, Multiplier, dual_maximiser
from bayesprune.methods.svi.force import Dispensable, force, vertex
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.methods.svi.settings import Settings
from bayesprune.pruning import ExpectedCost, compact, cost, marginal_cost, measure_latency, prices, relative_cost


class Prices:
    """The prices of a network that is being trained, as its settings say: constant, by `CostPrice`, or by a `Budget`.

    Args:
        net: The network, with all of its structures.
        example: One input, shape ``(1, ...)``, where the network is.
        settings: How to train.
        schedule: The phases of the run.
        broadcast: Gives every process what process 0 passes; by default there is one.

    Attributes:
        nu: ν, nats per example; NaN where prices are constant.
        expected: Expected cost relative to the reference at the last update, and with a budget, from the end of
            settling on, the cost of the network that `compact` gives; NaN where prices are constant.

    Raises:
        ConfigError: for a budget below what is left when all structures are off that may be, and for a price or budget
            in place of a prior with fixed inclusion probabilities.
    """

    def __init__(
        self,
        net: BayesianNet,
        example: Inputs,
        settings: Settings,
        schedule: Schedule,
        broadcast: Callable[[Any], Any] = lambda value: value,
    ):
        self.net, self.example, self.schedule, self._broadcast = net, example, schedule, broadcast
        self.price, self.budget = settings.price, settings.budget
        if net.fixed_prior and (self.price is not None or self.budget is not None):
            raise ConfigError(
                f"fit: Settings.{'price' if self.budget is None else 'budget'} would overwrite what the FixedInclusion "
                "prior says about each gate; leave it out, or build the BayesianNet with a FlatteningPrior"
            )
        self._temperature = settings.temperature
        self.nu = self.expected = self._beginning = math.nan
        self._multiplier = Multiplier()
        self._seconds: list[float] | None = None
        self._at_rest: float | None = None
        if self.budget is not None:
            self._weights = {self.budget.measure: 1.0}
            self.rebuild()
            self._reference = dict(self._cost.total)
            self._check_reachable(self.budget)
        elif self.price is not None:
            self.price = self.price.relative_to(cost(net, example))
            self._weights, self._reference = self.price.weights, self.price.costs
            self.rebuild()
        self.update(0)
        self._beginning = self.expected

    def rebuild(self) -> None:
        """Go on with a network that became smaller."""
        if self.price is None and self.budget is None:
            return
        if "latency" in self._weights:
            self._seconds = self._broadcast(measure_latency(self.net.net, self.example))
        self._build()

    def _build(self) -> None:
        self._cost = ExpectedCost(self.net.net, self.example, tuple(self._weights), self._seconds)

    def update(self, step: int, differences: Tensor | None = None) -> None:
        """Let log γ follow the expected cost at the present θ.

        Args:
            step: The step that is done.
            differences: New estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``, NaN before
                there is one: a budget's multiplier takes a step.
        """
        self.net.refresh(self._temperature * self.schedule.slab_share(step))
        if self.price is None and self.budget is None:
            return
        self.expected, savings = self._marginal(self.net.theta.detach())
        self.expected = self.expected if self._at_rest is None else self._at_rest
        if self.price is not None:
            self.nu = self.price.nu * self.schedule.price_factor(step)
        else:
            if differences is not None:
                self._ascend(step, self._unpriced(differences), torch.cat([torch.zeros(0), *savings.values()]))
            self.nu = self._multiplier.value
        if savings:
            rho = prices(self.nu, savings)
            self.net.log_gamma.copy_(torch.cat([rho[name] for name in self.net.gate_names]) * self.net.num_data)

    def _unpriced(self, differences: Tensor) -> Tensor:
        """What keeping structures costs besides their price: what the data say, and the divergence of their weights."""
        return (differences + self.net.weights_cost / self.net.num_data).cpu()

    def _ascend(self, step: int, differences: Tensor, savings: Tensor) -> None:
        """One step of dual ascent."""
        if len(savings) == 0 or bool(differences.isnan().any()):
            return
        assert self.budget is not None
        share = self.schedule.budget_share(step)
        target = self._beginning ** (1 - share) * (MARGIN * self.budget.fraction) ** share
        best = dual_maximiser(differences, savings, target, self._relative)
        self._multiplier.step(self.expected, target, best)

    def _marginal(self, theta: Tensor) -> tuple[float, dict[str, Tensor]]:
        """Relative cost at θ, shape ``(S,)``, and the derivative of twice its root by gate name."""
        by_gate = self.net.by_gate(theta.cpu().double())
        return marginal_cost(self._cost, by_gate, self._reference, self._weights)

    def _relative(self, theta: Tensor) -> float:
        """Relative cost at θ, shape ``(S,)``."""
        by_gate = self.net.by_gate(theta.cpu().double())
        with torch.no_grad():
            return float(relative_cost(self._cost, by_gate, self._reference, self._weights))

    # the end of settling -------------------------------------------------------------------------------------------

    def enforce(self, differences: Tensor) -> bool:
        """Where the gates' mode still costs more than a budget, switch off what does the least harm, with a warning.

        Args:
            differences: Latest estimates of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``.

        Returns:
            Whether any structure was switched off.
        """
        if self.budget is None:
            return False
        before = on = (self.net.theta.detach() > 0.5).cpu()
        harm = (-self._unpriced(differences)).nan_to_num().clamp(min=0)
        may_go = Dispensable(self.net)
        left = self._measured(on)
        while left > self.budget.fraction:
            goal = self._relative(on) * self.budget.fraction / left
            fewer = force(on, harm, self._savings, goal, may_go)
            if torch.equal(fewer, on):
                break
            on, left = fewer, self._measured(fewer)
        self._at_rest = left
        forced = before & ~on
        count = int(forced.sum())
        if count:
            with torch.no_grad():
                self.net.theta[forced.to(self.net.theta.device)] = 0.0
            warnings.warn(
                f"{count} of {int(before.sum())} structures had to be switched off at the end of settling to meet the "
                f"budget {self.budget}; {left:.4f} are left. A longer run settles closer to it",
                stacklevel=2,
            )
        return count > 0

    def _savings(self, on: Tensor) -> tuple[float, Tensor]:
        relative, savings = self._marginal(on)
        return relative, torch.cat([torch.zeros(0), *savings.values()])

    def _measured(self, on: Tensor) -> float:
        """What the network compacted to the structures in ``on`` costs, relative to the reference."""
        assert self.budget is not None
        with vertex(self.net, on):
            small = compact(self.net)
        measure = self.budget.measure
        if measure == "latency":
            amount = sum(self._broadcast(measure_latency(small, self.example)))
        else:
            amount = getattr(cost(small, self.example), measure)
        return amount / self._reference[measure]

    def _check_reachable(self, budget: Budget) -> None:
        """Refuse a budget that cannot be met."""
        least = self._measured(Dispensable(self.net).least())
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
            "reference": {} if self.budget is None else self._reference,
            "seconds": self._seconds,
            "at_rest": self._at_rest,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint, with the network as it is now."""
        self._multiplier.value, self._beginning = state["multiplier"], state["beginning"]
        self._seconds, self._at_rest = state["seconds"], state["at_rest"]
        if self.budget is not None:
            self._reference = state["reference"]
        if self.budget is not None or self.price is not None:
            self._build()
