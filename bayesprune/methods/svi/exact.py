"""While settling, θ follows exact paired differences (method page, "Settling")."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import GateSample, paired_differences
from bayesprune.infer.targets import Targets
from bayesprune.methods.svi.estimates import Estimates

MEMORY = 0.7
"""Weight of the past in the running mean of exact differences."""
RECENT_SHARE = 4
"""Under a fixed prior, the mean of exact differences tells of about the last one in so many of all evaluations."""
ERROR_SHARE = 0.5
"""How much of their standard error counts, besides the price, in the length by which they are divided."""


class ExactSteps(Estimates):
    """Steps of θ on evaluations of E[C | ξ_s=1] − E[C | ξ_s=0], of which each gathers some batches.

    Where training decides about gates, a step is ``size`` · (d + ρ)/√(ρ² + (κe)²), d the smoothed difference and e its
    standard error, by ``size`` at most. Under a fixed prior λ exact differences give the optimum itself, θ* =
    sigmoid(logit λ − D − N d), D being the divergence of the structure's weights, and θ moves towards it. There an
    error of a nat shows, so the exponent is averaged over ever more evaluations, of which evaluation k counts 4/(k + 3)
    when it is made (polynomial-decay averaging, Shamir & Zhang 2013, η = 3).

    Args:
        net: The network whose θ is moved.
        mean: Averages a tensor over all processes.

    Attributes:
        net_cost: d + ρ, and under a fixed prior the slope of the entropy besides, nats per example, shape ``(S,)``.
        evaluations: How many there were.
        total: Sum of the differences of the batches of the present evaluation.
        variance: Sum of the squares of their standard errors.
        count: How many batches they are.
        smoothed: Exponential mean of evaluations, before its correction for their number.
        evidence: Under a fixed prior, mean of d + ρ.
    """

    vectors = ("net_cost", "total", "variance", "smoothed", "evidence")
    counts = ("count", "evaluations")
    total: Tensor
    variance: Tensor
    smoothed: Tensor
    evidence: Tensor
    count: int
    evaluations: int

    @torch.no_grad()
    def add(self, x: Inputs, y: Targets, gates: GateSample, size: int | None = None) -> None:
        """Add the differences of one batch to the present evaluation.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets.
            gates: The other gates, drawn from the guide.
            size: Examples of the batch in all processes together; by default B.
        """
        difference, error = paired_differences(self.net, x, y, *gates)
        variance = error.square()
        if size is not None and size != len(y):  # pool the examples of all processes
            square = (len(y) - 1) * variance + difference.square()
            sums = torch.stack([difference, square, torch.ones_like(square)]) * len(y)
            difference, square, count = self._mean(sums).unbind()
            difference, square = difference / count, square / count
            variance = (square - difference.square()).clamp_(min=0) / (size - 1)
        self.total += difference
        self.variance += variance
        self.count += 1

    @torch.no_grad()
    def step(self, size: float) -> None:
        """Move θ by what `add` gathered, smoothed with the evaluations before, by at most ``size``."""
        if not self.count:
            return
        self.evaluations += 1
        found = self.total / self.count
        self.smoothed.lerp_(found, 1 - MEMORY)
        if self.net.prior_type.decides:
            self._decide(size)
        else:
            self._approach_optimum(found, size)
        self.total, self.variance, self.count = torch.zeros_like(self.total), torch.zeros_like(self.total), 0

    def _decide(self, size: float) -> None:
        """A projected step on the smoothed differences and the price."""
        price, theta = self.net.price, self.net.theta
        self.net_cost = self.differences + price
        variance = self.variance / self.count**2
        length = torch.addcmul(variance * ERROR_SHARE**2, price, price).sqrt_()
        theta.sub_((self.net_cost / length).clamp_(-1, 1).to(theta.dtype), alpha=size).clamp_(0, 1)

    def _approach_optimum(self, found: Tensor, size: float) -> None:
        """A step towards the probability that prior and data say.

        Args:
            found: The differences of the present evaluation, shape ``(S,)``.
            size: The length of the step at most.
        """
        net, theta = self.net, self.net.theta
        self.evidence.lerp_(found + net.price, RECENT_SHARE / (self.evaluations + RECENT_SHARE - 1))
        best = net.prior_type.optimum(self.evidence, net.num_data)
        theta.add_((best.to(theta.dtype) - theta).clamp_(-size, size)).clamp_(0, 1)
        self.net_cost = self.evidence + self.entropy_slope()

    @property
    def differences(self) -> Tensor:
        """The smoothed differences, nats per example, shape ``(S,)``."""
        return self.smoothed / (1 - MEMORY**self.evaluations)
