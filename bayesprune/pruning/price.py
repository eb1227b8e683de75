"""Prices made of what structures are expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.pruning.expected import ExpectedCost
from bayesprune.types import Cost

LEAST = 1e-9
"""What a relative cost is taken to be at least, so that it has a logarithm."""


@checked_arguments
def relative_cost(
    expected: ExpectedCost, theta: Mapping[str, Tensor], reference: Mapping[str, float], weights: Mapping[str, float]
) -> Tensor:
    """G = ∏_m (E[cost_m] / reference_m)^w_m at θ, differentiable in θ, float64.

    Args:
        expected: Expected cost of the present network.
        theta: By gate name, the inclusion probabilities.
        reference: By measure, what counts as 1.
        weights: By measure, its exponent.
    """
    costs = expected(theta)
    logs = [weight * (costs[name] / reference[name]).clamp(min=LEAST).log() for name, weight in weights.items()]
    return torch.stack(logs).sum().exp()


@checked_arguments
def marginal_cost(
    expected: ExpectedCost, theta: Mapping[str, Tensor], reference: Mapping[str, float], weights: Mapping[str, float]
) -> tuple[float, dict[str, Tensor]]:
    """G and ∂ 2√G / ∂θ.

    The cost of a network grows with the square of its width, so the derivative of √G, unlike that of G or of log G,
    does not change when all widths change alike: prices made of it neither fade nor run away while the network shrinks.

    Args:
        expected: As for `relative_cost`.
        theta: As there.
        reference: As there.
        weights: As there.

    Returns:
        G, and by gate name the derivative, shape ``(size,)``, float32, on the CPU.
    """
    leaves = {name: value.detach().to("cpu", torch.float64).requires_grad_(True) for name, value in theta.items()}
    with torch.enable_grad():
        cost = relative_cost(expected, leaves, reference, weights)
    gradients: Sequence[Tensor | None] = [None] * len(leaves)
    if cost.requires_grad:
        gradients = torch.autograd.grad(2 * cost.sqrt(), list(leaves.values()), allow_unused=True)
    return float(cost.detach()), {
        name: (torch.zeros_like(leaf) if gradient is None else gradient).float()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


@checked_arguments
@dataclass(frozen=True)
class CostPrice:
    """Price structures at what they are expected to save: ρ_s = ∂/∂θ_s of 2ν √G.

    G = (E[params]/params_0)^w · (E[MACs]/MACs_0)^(1−w) is the expected cost relative to a reference; see
    `marginal_cost` for why the root of it.

    Attributes:
        nu: ν, nats per example: what the whole reference cost is worth, times one half.
        params: w, the weight of parameters against multiply-adds.
        reference: What cost counts as 1; ``None`` for that of the network at the start.

    Examples:
        >>> from torch import nn
        >>> from bayesprune import layers
        >>> net = nn.Sequential(layers.Linear(2, 3, bias=False, gate="unit"), nn.Linear(3, 1, bias=False))
        >>> price = CostPrice(nu=0.1, params=1.0, reference=Cost(params=9, macs=9))
        >>> price(ExpectedCost(net, torch.ones(1, 2)), {"0": torch.ones(3)})  # each unit is a third of the cost
        {'0': tensor([0.0333, 0.0333, 0.0333])}
    """

    nu: float
    params: float = 0.5
    reference: Cost | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "nu", real("CostPrice: nu", self.nu, 0))
        object.__setattr__(self, "params", real("CostPrice: params", self.params, 0, 1, "[]"))

    @property
    def weights(self) -> dict[str, float]:
        """By measure, the exponents that G is made with."""
        return {"params": self.params, "macs": 1 - self.params}

    @property
    def costs(self) -> dict[str, float]:
        """By measure, what counts as 1.

        Raises:
            ConfigError: if the price has no reference.
        """
        if self.reference is None or self.reference.macs is None:
            raise ConfigError("CostPrice: needs a reference with parameters and multiply-adds; see relative_to")
        return {"params": self.reference.params, "macs": self.reference.macs}

    def relative_to(self, cost: Cost) -> CostPrice:
        """The same price with this reference, if it has none yet."""
        return self if self.reference is not None else replace(self, reference=cost)

    def __call__(self, expected: ExpectedCost, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ρ by gate name, nats per example, at the present θ.

        Args:
            expected: Expected cost of the present network.
            theta: By gate name, the inclusion probabilities.

        Raises:
            ConfigError: if the price has no reference.
        """
        return prices(self.nu, marginal_cost(expected, theta, self.costs, self.weights)[1])


@checked_arguments
def prices(nu: float, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ρ = ν times a derivative of the cost, by gate name; a least price for what saves nothing.

    Args:
        nu: ν, nats per example.
        gradient: By gate name, the derivative from `marginal_cost`.
    """
    nu = real("prices: nu", nu, 0, ends="[)")
    least = 1e-6 * nu / max(1, sum(part.numel() for part in gradient.values()))
    return {name: (nu * part).clamp(min=least) for name, part in gradient.items()}
