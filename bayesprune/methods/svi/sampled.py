"""While sampling, θ follows an estimate of its gradient (method page, "Projected SGD")."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import GateSample, shared_differences
from bayesprune.infer.targets import Targets
from bayesprune.methods.svi.estimates import Estimates

NOISE_MEMORY = 0.99
"""Weight of the past in the running mean square of sampled gradients."""
NOISE_SHARE = 0.1
"""How much of a sampled gradient's root mean square counts, besides the price, in the length by which it is divided."""
RECENT_STEPS, RECENT_TRAVEL = 20, 0.2
"""Of how many steps, and of how much of what the price alone moves θ, a running mean of sampled gradients tells."""
SHARED_MEMORY = 0.7
"""Weight of the past in the running mean of the exact differences of the gates that a batch shares."""


class SampledSteps(Estimates):
    """Projected steps of θ on sampled gradients ĝ, in units of its price.

    A step is ``size`` · ĝ/√(ρ² + (κσ)²): where the noise σ of an estimate is small against the price ρ this is η ĝ with
    η = size/ρ, so the price alone moves θ by ``size``; where noise drowns the price, steps are held back, so that gates
    do not walk at random into 0. Under a fixed prior ρ has any sign, and |ρ| counts as 1/N at least; the entropy of the
    gates is part of the objective, and its slope logit(θ)/N is added to the gradient.

    Args:
        net: The network whose θ is moved.
        mean: Averages a tensor over all processes.

    Attributes:
        net_cost: Mean gradient between the last two calls of `update_net_cost`, nats per example, shape ``(S,)``.
        total: Sum of the gradients since the last of these calls.
        count: How many they are.
        square: Running mean square of gradients without the price.
        steps: How many there were.
        recent: Running mean of differences.
        recent_weight: How much weight its entries have, those apart that a batch shares.
        shared_weight: How much these have.
    """

    vectors = ("net_cost", "total", "square", "recent")
    counts = ("count", "steps", "recent_weight", "shared_weight")
    total: Tensor
    square: Tensor
    recent: Tensor
    count: int
    steps: int
    recent_weight: float
    shared_weight: float

    def step(self, size: float) -> None:
        """One step on the gradient in ``theta.grad``, which is used up.

        Args:
            size: How far the price alone moves θ in this step.
        """
        net, theta, price = self.net, self.net.theta, self.net.price
        assert theta.grad is not None
        gradient = self._mean(theta.grad).to(price.dtype)
        self.total += gradient
        self.count += 1
        self._remember(gradient - price, size)
        gradient = gradient + self.entropy_slope()
        unit = net.prior_type.unit(price, net.num_data)
        share = NOISE_SHARE**2 / (1 - NOISE_MEMORY**self.steps)
        length = torch.addcmul(self.square * share, unit, unit).sqrt_()
        with torch.no_grad():
            theta.sub_((gradient / length).to(theta.dtype), alpha=size).clamp_(0, 1)
        theta.grad = None

    def _remember(self, data: Tensor, size: float) -> None:
        """Let the running means follow what the data say.

        Args:
            data: The gradient without the price, shape ``(S,)``.
            size: As for `step`.
        """
        self.steps += 1
        self.square.lerp_(data.square(), 1 - NOISE_MEMORY)
        weight = min(1 / RECENT_STEPS, size / RECENT_TRAVEL)
        shared = self.net.num_shared
        self.recent[shared:].lerp_(data[shared:], weight)
        self.recent_weight += weight * (1 - self.recent_weight)

    def update_net_cost(self) -> None:
        """Turn the gradients since the last call into the latest estimate; without any, keep the one there is."""
        if self.count:
            self.net_cost = self.total / self.count + self.entropy_slope()
        self.total, self.count = torch.zeros_like(self.total), 0

    def add_shared_differences(self, x: Inputs, y: Targets, gates: GateSample) -> None:
        """Learn the exact differences of the gates that a batch shares, which moves no θ.

        Sampled gradients tell too little of them: an estimator that flips one gate at a time visits each but rarely.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets.
            gates: The other gates, drawn from the guide.
        """
        if self.net.num_shared:
            found = shared_differences(self.net, x, y, *gates).to(self.recent.dtype)
            found, count = self._mean(torch.stack([found, torch.ones_like(found)]) * len(y)).unbind()
            self.recent[: self.net.num_shared].lerp_(found / count, 1 - SHARED_MEMORY)
            self.shared_weight += (1 - SHARED_MEMORY) * (1 - self.shared_weight)

    @property
    def differences(self) -> Tensor:
        """Latest estimate of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``; NaN before there is one."""
        weight = torch.full_like(self.recent, self.recent_weight)
        weight[: self.net.num_shared] = self.shared_weight
        return self.recent / weight
