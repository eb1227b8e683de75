"""While settling, θ follows derivatives that exact paired differences correct (method page, "Settling")."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import GateSample
from bayesprune.infer.differences import example_differences
from bayesprune.infer.targets import Targets
from bayesprune.methods.svi.corrected import ALIKE, CorrectedDifferences

RECENT_SHARE = 4
"""Under a fixed prior, the mean of exact differences tells of about the last one in so many of all evaluations."""
PRICE_SHARE = 0.2
"""κ, how much of the price counts, besides their standard error, in the length by which differences are divided."""
DOUBT = 1.645
"""Beyond how many standard errors a structure may go: one in twenty of those that cost nothing is beyond them."""
CLEAR = 2.5
"""Of how many standard errors a sign is so clear that it is measured no more. More than `DOUBT`, since it is looked at
again and again: were measuring to stop where a structure may go, 9 % of those that cost nothing would be let go, by
the chance of one of the looks (repeated significance tests, Armitage, McPherson & Rowe 1969)."""
WORTH = 0.5
"""Which part of an error the correction's must be, for a gate to be worth measuring."""

CONFIRMED = 16
"""With how many recent examples a gate must have been measured that is at 0, so that it may go."""


class ExactSteps(CorrectedDifferences):
    """Steps of θ on corrected differences d.

    Worth measuring are gates whose sign is not clear, |d + ρ| < ``CLEAR`` e, e being the standard error of d, for want
    of a correction.

    Where training decides about gates, a step is ``size`` · (d + ρ)/√((κρ)² + e²), by ``size`` at most: as fast as can
    be where the sign is clear, and hardly where it is not. Under a fixed prior λ exact differences alone give the
    optimum itself, θ* = sigmoid(logit λ − D − N d), D being the divergence of the structure's weights, and θ moves
    towards it. There an error of a nat shows: all gates are measured, and the exponent is averaged over ever more
    evaluations, of which evaluation k counts 4/(k + 3) when it is made (polynomial-decay averaging, Shamir & Zhang
    2013, η = 3).

    Args:
        net: The network whose θ is moved.
        mean: Averages a tensor over all processes.

    Attributes:
        net_cost: d + ρ, and under a fixed prior the slope of the entropy besides, nats per example, shape ``(S,)``.
        error: e.
        total: Under a fixed prior, sum of the mean differences of the batches of the present evaluation.
        count: How many batches were measured, under a fixed prior for the present evaluation.
        evidence: Under a fixed prior, mean of d + ρ.
        evaluations: How many there were.
    """

    vectors = (*CorrectedDifferences.vectors, "error", "total", "evidence")
    counts = (*CorrectedDifferences.counts, "count", "evaluations")
    error: Tensor
    total: Tensor
    evidence: Tensor
    count: int
    evaluations: int

    @torch.no_grad()
    def add(
        self,
        x: Inputs,
        y: Targets,
        gates: GateSample,
        size: int | None = None,
        *,
        values: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Add the differences of some examples to what is known.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets.
            gates: The other gates, drawn from the guide, those that ``values`` are of.
            size: Examples in all processes together; by default B.
            values: v of each example, shape ``(B, S)``; ``None`` for 0.
            wanted: Which gates to measure, bool, shape ``(S,)``; ``None`` for all.

        Returns:
            In how many examples the flip of each gate was computed, shape ``(S,)``.
        """
        wanted = torch.ones_like(self.gaps, dtype=torch.bool) if wanted is None else wanted
        found, pairs = example_differences(self.net, x, y, *gates, wanted)
        size = len(y) if size is None else size
        first = self.add_gaps(found.T if values is None else found.T - values, wanted, size, values)
        if not self.net.prior_type.decides:
            self.total += first / size
        self.count += 1
        return pairs

    def candidates(self) -> Tensor:
        """The gates that are worth measuring, on the host, those first whose sign is least clear."""
        if not self.net.prior_type.decides:
            return torch.arange(self.net.num_gates)
        difference, error, correction = self.estimate()
        doubt = (difference + self.net.price).abs() / error
        leaving = (self.net.theta.detach() == 0) & (self.measured < CONFIRMED)
        doubt = torch.where(leaving | (doubt < CLEAR) & (correction >= WORTH * error), doubt, torch.inf).cpu()
        return doubt.argsort()[: int(doubt.isfinite().sum())]

    @torch.no_grad()
    def step(self, size: float) -> None:
        """Move θ by what is known by now, by at most ``size``; not before anything was measured."""
        if not self.count:
            return
        self.evaluations += 1
        if self.net.prior_type.decides:
            self._decide(size)
        else:
            self._approach_optimum(size)
        self.fade()

    def _decide(self, size: float) -> None:
        """A projected step on the differences and the price, which leaves alone those of which nothing is known."""
        net, price, theta = self.net, self.net.price, self.net.theta
        difference, self.error, _ = self.estimate()
        self.net_cost = difference + price
        unit = PRICE_SHARE * net.prior_type.unit(price, net.num_data)
        length = torch.addcmul(self.error.square(), unit, unit).sqrt_()
        theta.sub_((self.net_cost / length).clamp_(-1, 1).to(theta.dtype), alpha=size).clamp_(0, 1)

    def _approach_optimum(self, size: float) -> None:
        """A step towards the probability that prior and data say, by at most ``size``."""
        net, theta = self.net, self.net.theta
        found = self.total / self.count
        self.evidence.lerp_(found + net.price, RECENT_SHARE / (self.evaluations + RECENT_SHARE - 1))
        best = net.prior_type.optimum(self.evidence, net.num_data)
        theta.add_((best.to(theta.dtype) - theta).clamp_(-size, size)).clamp_(0, 1)
        self.net_cost = self.evidence + self.entropy_slope()
        self.total, self.count = torch.zeros_like(self.total), 0

    @property
    def least_cost(self) -> Tensor:
        """What `net_cost` is at least, but for one structure in twenty that costs nothing; shape ``(S,)``.

        Minus infinity where that was not measured of late, as derivatives alone may mislead.
        """
        if not self.net.prior_type.decides:
            return self.net_cost
        few = (DOUBT**2 + 1) / 4 / (self.measured + ALIKE - 1)  # Student's quantile, Abramowitz & Stegun 1964, 26.7.5
        return torch.where(self.measured < CONFIRMED / 2, -torch.inf, self.net_cost - DOUBT * (1 + few) * self.error)

    @property
    def differences(self) -> Tensor:
        """d, nats per example, shape ``(S,)``."""
        return self.estimate()[0]
