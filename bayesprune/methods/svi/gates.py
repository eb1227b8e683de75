"""How θ moves: a projected step on a sampled gradient, or on exact paired differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet, GateSample, paired_differences, shared_differences
from bayesprune.infer.targets import Targets

NOISE_MEMORY = 0.99
"""Weight of the past in the running mean square of sampled gradients."""
NOISE_SHARE = 0.1
"""How much of a sampled gradient's root mean square counts, besides the price, in the length by which it is divided."""
SETTLE_MEMORY = 0.7
"""Weight of the past in the running mean of exact differences."""
RECENT_STEPS, RECENT_TRAVEL = 20, 0.2
"""Of how many steps, and of how much of what the price alone moves θ, a running mean of sampled gradients tells."""
RECENT_SHARE = 4
"""Under a fixed prior, the mean of exact differences tells of about the last one in so many of all evaluations."""
SETTLE_ERROR = 0.5
"""How much of their standard error counts, besides the price, in the length by which they are divided."""
RESOLUTION = 1e-6
"""How near to 0 or 1 an optimum under a fixed prior is taken for 0 or 1 itself."""


class GateUpdates:
    """Steps of θ in units of its price, and the running estimates that they leave behind.

    A step is ``size`` · ĝ/√(ρ² + (κσ)²): where the noise σ of an estimate is small against the price ρ this is η ĝ with
    η = size/ρ, so the price alone moves θ by ``size``; where noise drowns the price, steps are held back, so that gates
    do not walk at random into 0.

    Under a fixed prior λ the entropy of the gates is part of the objective, and ρ of any sign. While sampling, the
    slope logit(θ)/N is added to the gradient, and |ρ| counts as 1/N at least; exact differences give the optimum
    itself, θ* = sigmoid(logit λ − D − N (E[C | ξ=1] − E[C | ξ=0])), D being the divergence of the structure's weights,
    and θ moves towards it. There an error of a nat shows, so the exponent is averaged over ever more evaluations, of
    which evaluation k counts 4/(k + 3) when it is made (polynomial-decay averaging, Shamir & Zhang 2013, η = 3).

    Args:
        net: The network whose θ is moved.
        mean: Averages a tensor over all processes; by default there is one.

    Attributes:
        gain: Latest estimate of ∂L/∂θ for every gate, nats per example, shape ``(S,)``: the evidence for a removal.
    """

    def __init__(self, net: BayesianNet, mean: Callable[[Tensor], Tensor] = torch.clone):
        self.net, self.mean = net, mean
        zeros = torch.zeros_like(net.log_gamma)
        self.gain, self._square = zeros.clone(), zeros.clone()
        self._sum, self._variance, self._differences = zeros.clone(), zeros.clone(), zeros.clone()
        self._recent, self._evidence = zeros.clone(), zeros.clone()
        self._recent_units = self._recent_shared = 0.0
        self._steps = self._count = self._settled = 0

    def sampled(self, size: float) -> None:
        """One projected step on the gradient in ``theta.grad``, which is used up.

        Args:
            size: How far the price alone moves θ in this step.
        """
        theta, price = self.net.theta, self.net.price
        assert theta.grad is not None
        gradient = self.mean(theta.grad).to(price.dtype)
        self._sum += gradient
        self._count += 1
        self._steps += 1
        data = gradient - price
        self._square.lerp_(data.square(), 1 - NOISE_MEMORY)
        weight = min(1 / RECENT_STEPS, size / RECENT_TRAVEL)
        shared = self.net.num_shared
        self._recent[shared:].lerp_(data[shared:], weight)
        self._recent_units += weight * (1 - self._recent_units)
        share = NOISE_SHARE**2 / (1 - NOISE_MEMORY**self._steps)
        gradient = gradient + self._entropy_slope()
        unit = price.abs().clamp(min=1 / self.net.num_data) if self.net.fixed_prior else price
        length = torch.addcmul(self._square * share, unit, unit).sqrt_()
        with torch.no_grad():
            theta.sub_((gradient / length).to(theta.dtype), alpha=size).clamp_(0, 1)
        theta.grad = None

    def look(self) -> None:
        """Turn the gradients summed up since the last look into the latest estimate."""
        if self._count:
            self.gain = self._sum / self._count + self._entropy_slope()
        self._clear()

    def _entropy_slope(self) -> Tensor | float:
        """The derivative of −H(θ)/N, finite at 0 and 1; none where the prior is flattening."""
        if not self.net.fixed_prior:
            return 0.0
        return torch.logit(self.net.theta.detach().to(self.gain.dtype), RESOLUTION) / self.net.num_data

    @property
    def differences(self) -> Tensor:
        """Latest estimate of E[C | ξ_s=1] − E[C | ξ_s=0], nats per example, shape ``(S,)``; NaN before there is one."""
        if self._settled:
            return self._differences / (1 - SETTLE_MEMORY**self._settled)
        seen = torch.full_like(self._recent, self._recent_units)
        seen[: self.net.num_shared] = self._recent_shared
        return self._recent / seen

    def survey(self, x: Inputs, y: Targets, gates: GateSample) -> None:
        """While sampling: learn the exact differences of the gates that a batch shares, which moves no θ.

        Sampled gradients tell too little of them: an estimator that flips one gate at a time visits each but rarely.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets.
            gates: The other gates, drawn from the guide.
        """
        if self.net.num_shared:
            found = shared_differences(self.net, x, y, *gates).to(self._recent.dtype)
            found, count = self.mean(torch.stack([found, torch.ones_like(found)]) * len(y)).unbind()
            self._recent[: self.net.num_shared].lerp_(found / count, 1 - SETTLE_MEMORY)
            self._recent_shared += (1 - SETTLE_MEMORY) * (1 - self._recent_shared)

    @torch.no_grad()
    def measure(self, x: Inputs, y: Targets, gates: GateSample, size: int | None = None) -> None:
        """Add to the present evaluation the exact paired differences of one batch.

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
            difference, square, count = self.mean(sums).unbind()
            difference, square = difference / count, square / count
            variance = (square - difference.square()).clamp_(min=0) / (size - 1)
        self._sum += difference
        self._variance += variance
        self._count += 1

    @torch.no_grad()
    def settle(self, size: float) -> None:
        """Move θ by the evaluation that `measure` gathered, smoothed with those before, by at most ``size``."""
        if not self._count:
            return
        price, theta = self.net.price, self.net.theta
        self._settled += 1
        found = self._sum / self._count
        self._differences.lerp_(found, 1 - SETTLE_MEMORY)
        self.gain = self._differences / (1 - SETTLE_MEMORY**self._settled) + price
        if self.net.fixed_prior:
            self._evidence.lerp_(found + price, RECENT_SHARE / (self._settled + RECENT_SHARE - 1))
            self.gain = self._evidence.clone()
            best = torch.sigmoid(-self.net.num_data * self.gain)
            best = torch.where(best < RESOLUTION, 0.0, torch.where(best > 1 - RESOLUTION, 1.0, best))
            theta.add_((best.to(theta.dtype) - theta).clamp_(-size, size)).clamp_(0, 1)
            self.gain = self.gain + self._entropy_slope()
        else:
            variance = self._variance / self._count**2
            length = torch.addcmul(variance * SETTLE_ERROR**2, price, price).sqrt_()
            theta.sub_((self.gain / length).clamp_(-1, 1).to(theta.dtype), alpha=size).clamp_(0, 1)
        self._clear()

    def _clear(self) -> None:
        self._sum, self._variance, self._count = torch.zeros_like(self._sum), torch.zeros_like(self._sum), 0

    _VECTORS = ("gain", "_square", "_sum", "_variance", "_differences", "_recent", "_evidence")
    _COUNTS = ("_steps", "_count", "_settled", "_recent_units", "_recent_shared")

    def keep(self, kept: Tensor) -> None:
        """Go on with the gates of these indices."""
        for name in self._VECTORS:
            setattr(self, name, getattr(self, name)[kept])

    def state(self) -> dict:
        """What a checkpoint needs: a copy."""
        vectors = {name: getattr(self, name).cpu().clone() for name in self._VECTORS}
        return {**vectors, **{name: getattr(self, name) for name in self._COUNTS}}

    def load(self, state: dict) -> None:
        """Take up the state of a checkpoint."""
        device = self.gain.device
        for name in self._VECTORS:
            setattr(self, name, state[name].to(device))
        for name in self._COUNTS:
            setattr(self, name, state[name])
