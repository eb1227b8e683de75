"""The multiplier of a budget: dual ascent on ν (method page, "A budget")."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

START = 0.1
"""The multiplier before anything is known, nats per example."""
REACH = 10.0
"""By what factor the multiplier may be asked to change in one step, of which it takes the root."""
LEAST = 1e-8
"""What the multiplier does not fall below, nats per example: lengths of steps are in units of prices."""
NEGLIGIBLE = 1e-6
"""Savings relative to the largest one that count as this much: what saves nothing has no ratio of harm to saving."""


class Multiplier:
    """ν of a constraint "cost ≤ target", followed by dual ascent.

    The cost c(θ) enters the loss as ν · 2√c. In the problem linearised at the present θ, structure s brings the
    difference d_s in loss and ν g_s in price, so it is worth keeping if −d_s/g_s > ν. The dual function of that problem
    is highest at the ratio of the first structure that the target does not allow, when they are taken in the order of
    their ratios. A step goes half the way to just above it, on the scale of logarithms, but never against the dual
    function's slope, which is the violation: up only while c is above the target, down only while it is below.

    Attributes:
        value: ν, nats per example.

    Examples:
        >>> multiplier = Multiplier()
        >>> multiplier.step(cost=0.9, target=0.4, best=0.4)  # from 0.1 half the way to 0.4, in logarithms
        >>> round(multiplier.value, 6)
        0.2
    """

    def __init__(self) -> None:
        self.value = START

    def step(self, cost: float, target: float, best: float) -> None:
        """Move towards where the linearised problem's dual function is highest.

        Args:
            cost: Expected relative cost c.
            target: What it is to come down to.
            best: Where that is, see `dual_maximiser`.
        """
        low, high = (self.value, self.value * REACH) if cost > target else (self.value / REACH, self.value)
        self.value = max(LEAST, math.sqrt(self.value * min(max(best, low), high)))


def dual_maximiser(difference: Tensor, saving: Tensor, target: float, cost: Callable[[Tensor], float]) -> float:
    """The multiplier at which the structures that are worth their price just meet a target.

    Args:
        difference: E[C | ξ_s=1] − E[C | ξ_s=0] of every structure, nats per example, shape ``(S,)``.
        saving: g_s, the derivative of the penalty on cost, shape ``(S,)``, not negative.
        target: Relative cost to be met.
        cost: Relative cost of the network that keeps the structures in a mask, shape ``(S,)``, bool.

    Returns:
        ν, between the ratios −d_s/g_s of the last structure that has to go and the first that stays; half of the least
        ratio if all structures that are of any use may stay; 0 if none is.
    """
    ratio = -difference / saving.clamp(min=NEGLIGIBLE * float(saving.max()))
    steps = ratio[ratio > 0].unique().tolist()
    if not steps:
        return 0.0
    low, high = 0, len(steps)  # how many of these ratios are not kept
    while low < high:
        middle = (low + high) // 2
        if cost(ratio > (steps[middle - 1] if middle else 0.0)) <= target:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return steps[0] / 2
    return math.sqrt(steps[low - 1] * (steps[low] if low < len(steps) else 4 * steps[-1]))
