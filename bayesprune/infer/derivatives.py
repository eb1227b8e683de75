"""Estimators of ∂L/∂θ from the derivatives ∂C/∂ξ_s at the sample alone: no further pass.

See `bayesprune.infer.estimators` for what an estimator is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesprune.infer.evaluation import Objective

NUDGE = 2.0**-20
"""What stands for 0 where a derivative at ξ = 0 is taken.

A gate may sit before its activation, and relu'(0) is 0 in torch, while the derivative that counts is the one from the
right, which relu(ξ a) has at any ξ > 0.
"""
TEMPERATURE = 0.5
"""Of the concrete relaxation, as in SS-IG."""
FLOOR = 0.1
"""Smallest probability of an outcome by which a derivative seen at that outcome is divided."""


class _WeightedDerivative(torch.autograd.Function):
    """Pass ξ on, nudged off 0; as the gradient of θ_s return Σ_rows (on_s if ξ_s else off_s) · ∂C/∂ξ_s."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, xi: Tensor, on: Tensor, off: Tensor) -> Tensor:
        ctx.save_for_backward(xi, on, off)
        return xi.clamp(min=NUDGE)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        xi, on, off = ctx.saved_tensors
        return off * grad.sum(0) + (on - off) * (grad * xi).sum(0), None, None, None


def with_derivative(theta: Tensor, xi: Tensor, on: Tensor, off: Tensor) -> Tensor:
    """Gate values nudged off 0, whose derivatives arrive at θ, weighted by what they were seen at.

    Args:
        theta: θ, shape ``(S,)``.
        xi: Gates, shape ``(rows, S)``.
        on: What a derivative seen at ξ_s = 1 counts, shape ``(S,)``.
        off: What one seen at ξ_s = 0 counts.
    """
    values: Tensor = _WeightedDerivative.apply(theta, xi, on, off)
    return values


def trapezoid(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a derivative seen at ξ = 1 and at ξ = 0; the two expected weights add up to 1."""
    on, off = theta.clamp(min=FLOOR), (1 - theta).clamp(min=FLOOR)
    return (1 - 0.5 * (1 - theta) / off) / on, (1 - 0.5 * theta / on) / off


def straight_through(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """First order: ∂C/∂ξ_s at the sample (Bengio et al. 2013). Biased where C is curved in ξ_s; no extra pass.

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.
    """
    ones = torch.ones_like(theta)
    return objective(with_derivative(theta, xi, ones, ones)).mean() + (price * theta).sum()


def second_order(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """Trapezoid rule for C(1) − C(0): the mean of ∂C/∂ξ_s at ξ_s = 1 and at ξ_s = 0 (Liu et al. 2023, ReinMax).

    The derivative at the sample is weighted by ½/θ_s if ξ_s = 1 and by ½/(1−θ_s) if ξ_s = 0. Exact where C is quadratic
    in each ξ_s and θ_s is in [``FLOOR``, 1 − ``FLOOR``]. Nearer to an end, the weight of the rare outcome is capped and
    what it lacks goes to the common one, so that at θ_s = 0 or 1 an estimate still exists: the derivative at the only
    sampled end.

    Where the loss has kinks between the ends, as with max-pooling behind a layer that mixes gated filters, the sign may
    be wrong. Of units before a BatchNorm in training mode it has less bias than `paired`, but for very small batches.

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.
    """
    on, off = trapezoid(theta.detach())
    return objective(with_derivative(theta, xi, on, off)).mean() + (price * theta).sum()


class _RowWeightedDerivative(torch.autograd.Function):
    """Pass ξ on, nudged off 0; as the gradient of θ_s return Σ_rows weight · ∂C/∂ξ_s."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, xi: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return xi.clamp(min=NUDGE)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return (grad * weight).sum(0), None, None


def concrete(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """Straight through a concrete relaxation of temperature ½ (Maddison et al. 2017; Jang et al. 2017).

    ξ̃_s = sigmoid((logit θ_s + logit u_s)/τ) for uniform u_s; the gate is ξ_s = 1[ξ̃_s > ½], and the derivative is that
    of ξ̃_s: ∂C/∂ξ_s · ξ̃_s(1 − ξ̃_s) / (τ θ_s(1 − θ_s)). Given the gates at hand, u_s is uniform on (1 − θ_s, 1) where
    they are on and on (0, 1 − θ_s) where they are off. Biased by the relaxation; no extra pass. The estimator of SS-IG
    (Jantre, Bhattacharya & Maiti 2021).

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.
    """
    p = theta.detach().clamp(FLOOR / 100, 1 - FLOOR / 100)
    inside = torch.rand_like(xi)
    if objective.shared:
        inside[:, : objective.shared] = torch.rand(objective.shared, generator=objective.generator).to(inside)
    u = torch.where(xi > 0.5, 1 - p * inside, (1 - p) * inside)
    relaxed = torch.sigmoid((torch.logit(p) + torch.logit(u, eps=1e-6)) / TEMPERATURE)
    weight = relaxed * (1 - relaxed) / (TEMPERATURE * p * (1 - p))
    return objective(_RowWeightedDerivative.apply(theta, xi, weight)).mean() + (price * theta).sum()
