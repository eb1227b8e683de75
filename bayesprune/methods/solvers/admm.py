"""Weights of the least Σ|w| that give what a layer gave, by the alternating direction method of multipliers."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import softshrink

RHO, SCALE = 100.0, 0.3
"""The penalty to begin with, for data that are divided by SCALE times the root of the largest moment."""
RELAX, EVERY, BALANCE = 1.6, 10, 10.0
"""After how many steps the penalty may change, and by how much one relative residual has to exceed the other."""


def least_weights(
    x: Tensor,
    y: Tensor,
    active: Tensor,
    ceiling: Tensor,
    radius: float,
    *,
    steps: int = 1000,
    tolerance: float = 1e-3,
) -> tuple[Tensor, float]:
    """The W of the least Σ|W| for which ‖X W − Y‖ ≤ radius on the active entries, and X W ≤ ceiling on all others.

    Args:
        x: X, shape ``(P, n)``.
        y: Y, shape ``(P, m)``.
        active: Where values are to be met, bool, shape ``(P, m)``.
        ceiling: What may not be exceeded elsewhere, shape ``(P, m)``.
        radius: How far all active values together may be missed.
        steps: The most that are taken.
        tolerance: How far, relative to their size, what has to be equal in the end may still differ, and may still move
            in a step.

    Returns:
        W, shape ``(n, m)``, exactly 0 where it vanishes, and the multiply-adds that it took.

    Warns:
        UserWarning: if no such weights are found within these steps.

    Examples:
        >>> x, y = torch.eye(3, dtype=torch.float64), torch.tensor([[2.0], [0.0], [0.0]], dtype=torch.float64)
        >>> w, _ = least_weights(x, y, y > 0, torch.zeros_like(y), radius=0.5)  # 2 may be missed by 0.5
        >>> [round(entry, 2) for entry in w.flatten().tolist()]
        [1.5, 0.0, 0.0]

    Sources:
        Aghasi, Abdi, Nguyen & Romberg 2017, "Net-Trim: Convex Pruning of Deep Neural Networks with Performance
        Guarantee", and 2020, "Fast Convex Pruning of Deep Neural Networks", whose splitting this is.
    """
    scale = SCALE * (x.T @ x).abs().max().sqrt().clamp(min=1e-30)
    x, y, ceiling, radius = x / scale, y / scale, ceiling / scale, radius / float(scale)
    (count, n), m = x.shape, y.shape[1]
    inverse = torch.linalg.inv(x.T @ x + torch.eye(n, dtype=x.dtype))
    spent = float(2 * count * n * n + n**3)
    weights, given = x.new_zeros(n, m), x.new_zeros(count, m)
    outer, inner = torch.zeros_like(given), torch.zeros_like(weights)  # multipliers of the two copies
    rho = RHO
    for step in range(1, steps + 1):
        miss = given - outer - y
        over = float((miss * active).norm())
        allowed = miss * min(1.0, radius / max(over, 1e-30))
        met = torch.where(active, y + allowed, torch.minimum(given - outer, ceiling))
        sparse = softshrink(weights - inner, 1 / rho)
        apart = torch.cat([met - given, sparse - weights])
        met, sparse_on = (RELAX * new + (1 - RELAX) * old for new, old in ((met, given), (sparse, weights)))
        before, weights = torch.cat([given, weights]), inverse @ (x.T @ (met + outer) + sparse_on + inner)
        given = x @ weights
        outer, inner = outer + met - given, inner + sparse_on - weights
        spent += 2.0 * count * n * m + n * n * m
        both, duals = torch.cat([given, weights]), torch.cat([outer, inner])
        primal = float(apart.norm()) / max(float(both.norm()), 1e-30)
        dual = float((both - before).norm()) / max(float(duals.norm()), 1e-30)
        if max(primal, dual) < tolerance:
            return sparse, spent
        if step % EVERY == 0 and step <= steps // 2:  # both come to rest together
            factor = 2.0 if primal > BALANCE * dual else 0.5 if dual > BALANCE * primal else 1.0
            rho, outer, inner = rho * factor, outer / factor, inner / factor
    warnings.warn(f"Net-Trim's weights were not found within {steps} steps; what was found last is taken", stacklevel=2)
    return sparse, spent
