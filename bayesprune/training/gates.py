"""How θ moves: a projected step on a sampled gradient, or on exact paired differences."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.infer import BayesianNet, GateDraws, paired_differences

SMOOTHING = 0.7
"""Weight of the past in the running mean of exact differences."""


class GateUpdates:
    """Steps of θ in units of its price, and the running estimates that they leave behind.

    Attributes:
        gain: Latest estimate of ∂L/∂θ for every gate, nats per example, shape ``(S,)``: the evidence for a removal.

    Args:
        net: The network whose θ is moved.
    """

    def __init__(self, net: BayesianNet):
        self.net = net
        self.gain = torch.zeros_like(net.log_gamma)
        self._sum = torch.zeros_like(net.log_gamma)
        self._count = 0

    def sampled(self, size: float) -> None:
        """θ ← Proj(θ − size · ĝ/ρ), ĝ the gradient in ``theta.grad``, which is used up.

        Args:
            size: η ρ, how far the price alone moves θ in this step.
        """
        theta = self.net.theta
        gradient = theta.grad
        assert gradient is not None
        self._sum += gradient
        self._count += 1
        with torch.no_grad():
            theta.sub_(gradient / self.net.price, alpha=size).clamp_(0, 1)
        theta.grad = None

    def look(self) -> Tensor:
        """Turn the gradients summed up since the last look into the latest estimate, and return it."""
        if self._count:
            self.gain = self._sum / self._count
            self._sum, self._count = torch.zeros_like(self._sum), 0
        return self.gain

    @torch.no_grad()
    def measure(self, x: Tensor, y: Tensor) -> None:
        """Add the exact paired differences of one batch, the other gates drawn from the guide, to the present evaluation."""
        net = self.net
        xi = GateDraws(net.theta.detach(), net.rows(x), net.num_shared).sample()
        differences, _ = paired_differences(net, x, y, xi)
        self._sum += differences + net.price
        self._count += 1

    @torch.no_grad()
    def settle(self, size: float) -> None:
        """Move θ by the evaluation that `measure` gathered, smoothed with those before, by at most ``size``."""
        if not self._count:
            return
        fresh = self._sum / self._count
        self.gain = fresh if not self.settling else SMOOTHING * self.gain + (1 - SMOOTHING) * fresh
        self.settling = True
        self._sum, self._count = torch.zeros_like(self._sum), 0
        self.net.theta.sub_((self.gain / self.net.price).clamp(-1, 1), alpha=size).clamp_(0, 1)

    settling = False

    def keep(self, kept: Tensor) -> None:
        """Go on with the gates of these indices."""
        self.gain, self._sum = self.gain[kept], self._sum[kept]

    def state(self) -> dict:
        """What a checkpoint needs."""
        return {"gain": self.gain.cpu(), "settling": self.settling}

    def load(self, state: dict) -> None:
        """Take up the state of a checkpoint written at the end of an epoch."""
        self.gain = state["gain"].to(self.gain.device)
        self.settling = state["settling"]
