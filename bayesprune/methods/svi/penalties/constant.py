"""Prices that stay: log γ of the prior (method page, equation of the flattening hyper-prior)."""

from __future__ import annotations

from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.penalties.base import Penalty
from bayesprune.methods.svi.penalties.relative import RelativeCost
from bayesprune.methods.svi.schedule import Schedule


class ConstantPenalty(Penalty):
    """Σ_s θ_s log γ_s with the log γ of the network's prior.

    Args:
        net: The network.
        example: One input, shape ``(1, ...)``, where the network is.
        schedule: The phases of the run.
        temperature: How much of the divergence of Normal weights counts in the end.
    """

    def __init__(self, net: BayesianNet, example: Inputs, schedule: Schedule, temperature: float):
        super().__init__(net, schedule, temperature)
        self._cost = RelativeCost(net, example, {})
        self.update(0)

    def _follow(self, step: int, differences: Tensor | None) -> None:
        """Log γ stay those of the prior."""
