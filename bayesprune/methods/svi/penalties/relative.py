"""The expected cost of a network that is trained, relative to what counts as 1, and prices made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet
from bayesprune.layers import eval_mode
from bayesprune.pruning import ExpectedCost, marginal_cost, prices, relative_cost

Latency = tuple[Sequence[float], Sequence[float]]
"""Seconds of every operation, and the part of each that does not depend on widths."""


class RelativeCost:
    """c(θ) = ∏_m (E[cost_m] / reference_m)^w_m of the present network, its derivative, and prices made of that.

    Args:
        net: The network, with all of its structures.
        example: One input, shape ``(1, ...)``, where the network is.
        weights: By measure, the exponent w.
        reference: By measure, what counts as 1; ``None`` for the cost with all gates on.
        latency: Seconds of every operation, and which part of them does not depend on widths; ``None`` where that
            measure is not asked for.
    """

    def __init__(
        self,
        net: BayesianNet,
        example: Inputs,
        weights: Mapping[str, float],
        reference: Mapping[str, float] | None = None,
        latency: Latency | None = None,
    ):
        self.net, self.example, self.weights = net, example, weights
        self.rebuild(latency)
        self.reference = dict(self._expected.total if reference is None else reference)

    def rebuild(self, latency: Latency | None = None) -> None:
        """Go on with a network that became smaller, and the seconds of its operations."""
        measures = tuple(dict.fromkeys([*self.weights, "macs"]))
        with eval_mode(self.net):
            traced = self.net.traced
        seconds, overheads = latency or (None, None)
        self._expected = ExpectedCost(self.net.net, self.example, measures, seconds, overheads, traced)
        self._latest: tuple[Tensor, float, Tensor] | None = None
        self._charged: tuple[float, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, theta: Tensor) -> float:
        """The relative cost at θ, shape ``(S,)``."""
        return float(relative_cost(self._expected, self._by_gate(theta), self.reference, self.weights))

    def savings(self, theta: Tensor) -> tuple[float, Tensor]:
        """The relative cost c at θ, shape ``(S,)``, and ∂ 2√c / ∂θ, the same shape, on the CPU.

        Those of the last θ are kept, since prices are asked for more often than θ moves.
        """
        theta = theta.cpu()
        if self._latest is None or not torch.equal(theta, self._latest[0]):
            cost, gradient = marginal_cost(self._expected, self._by_gate(theta), self.reference, self.weights)
            self._latest = theta.clone(), cost, torch.cat([torch.zeros(0), *gradient.values()])
        return self._latest[1:]

    def saved_macs(self, off: Tensor) -> float:
        """Multiply-adds of a pass of one example that the network is left without, with all other gates on.

        Args:
            off: Gates that are off, bool, shape ``(S,)``.
        """
        return self._expected.total["macs"] - float(self._expected(self._by_gate(~off))["macs"])

    def charge(self, nu: float, savings: Tensor) -> None:
        """Make the price of every structure of the network ν times what it saves.

        Args:
            nu: ν, nats per example.
            savings: From `savings`, shape ``(S,)``.
        """
        if self._charged is not None and nu == self._charged[0] and savings is self._charged[1]:
            return
        self._charged = nu, savings
        if len(savings):
            rho = prices(nu, self.net.by_gate(savings))
            self.net.log_gamma.copy_(torch.cat(list(rho.values())) * self.net.num_data)

    def _by_gate(self, theta: Tensor) -> dict[str, Tensor]:
        return self.net.by_gate(theta.cpu().double())
