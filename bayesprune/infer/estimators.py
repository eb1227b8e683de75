"""Estimators of ∂L/∂θ, L(θ) = E_{ξ~Bern(θ)}[C(ξ)] + Σ_s ρ_s θ_s, all of one signature.

C(ξ) is the mean negative log-likelihood of a batch with gates ξ, ρ_s the price of a gate; both in nats per example. An
estimator returns a scalar whose *value* is C(ξ) + Σ_s ρ_s θ_s at the sample and whose *gradient* with respect to θ is
its estimate (with respect to the weights, the plain gradient of C(ξ)). L is multilinear in θ, so ∂L/∂θ_s = E[C | ξ_s=1]
− E[C | ξ_s=0] + ρ_s.

To add one, write a function of this signature, enter it in ``ESTIMATORS`` and in the table of
``tests/infer/test_estimators.py``, which checks all of them against enumeration.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.infer.derivatives import concrete, second_order, straight_through, trapezoid, with_derivative
from bayesprune.infer.evaluation import Estimator, Objective

MAX_ENUMERATED = 16


def _with_gradient(theta: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of value 0 whose gradient with respect to θ is ``gradient``."""
    return (gradient * (theta - theta.detach())).sum()


def exact(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """Enumeration of all 2^S gate vectors: the exact loss and gradient, the oracle of every other estimator.

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.

    Raises:
        ConfigError: for more than 16 gates.
    """
    if theta.numel() > MAX_ENUMERATED:
        raise ConfigError(
            f"estimator 'exact' enumerates 2^S gate vectors; it takes at most {MAX_ENUMERATED} gates, the network has "
            f"{theta.numel()}; use 'auto'"
        )
    total = (price * theta).sum()
    for values in product((0.0, 1.0), repeat=theta.numel()):
        vector = theta.new_tensor(values)
        probability = (vector * theta + (1 - vector) * (1 - theta)).prod()
        total = total + probability * objective(vector[None]).mean()
    return total


def _choose(objective: Objective, count: int) -> int:
    """One of the first ``count`` gates, drawn at random."""
    return int(torch.randint(count, (), generator=objective.generator))


def _difference(
    objective: Objective, losses: Tensor, theta: Tensor, xi: Tensor, price: Tensor, flip: tuple[int, int]
) -> Tensor:
    """Unbiased gradient from flipping one of so many gates: only its entry is not 0, rescaled by their number.

    The price enters at the visited gate only, so a gate at 0 or 1 that the data want there does not move between
    visits.
    """
    chosen, count = flip
    if chosen < objective.shared:
        other = objective.flipped(chosen)
    else:
        values = xi.detach().clone()
        values[:, chosen] = 1 - values[:, chosen]
        other = objective.again(values)
    sign = 2 * xi[:, chosen].detach() - 1
    difference = (sign * (losses.detach() - other)).mean()
    gradient = torch.zeros_like(theta)
    gradient[chosen] = count * (difference + price[chosen])
    return gradient


def paired(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """C(ξ_s=1) − C(ξ_s=0) on the same batch and the same other gates, for one gate s drawn at random, times S.

    Unbiased at every θ, 0 and 1 included, if the loss of an example depends on no other's gates: not of units before a
    BatchNorm in training mode, whose statistics the flip moves in all examples at once. The extra pass, without
    gradient, begins at the block of s if all examples share the gate; in it, as in the first, branches that are off are
    not computed.

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.
    """
    chosen = _choose(objective, theta.numel())
    losses = objective(xi, skip=True, watch=[chosen] if chosen < objective.shared else [])
    gradient = _difference(objective, losses, theta, xi, price, (chosen, theta.numel()))
    return losses.mean() + (price * theta.detach()).sum() + _with_gradient(theta, gradient)


def disarm(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """Antithetic pair of gate vectors (Dong, Mnih & Tucker 2020); one extra pass.

    Unbiased for θ in (0, 1), but as `paired` not of units before a BatchNorm in training mode. With ξ = 1[u < θ] and ξ'
    = 1[u > 1−θ], the estimate is ½ (C(ξ) − C(ξ')) (ξ_s − ξ'_s) / min(θ_s, 1−θ_s). Its variance grows with S. A gate
    within 10^-3 of 0 or 1 is still flipped in the second vector once in a thousand draws, so that an estimate exists
    there.

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.
    """
    p, value = theta.detach(), xi.detach()
    least = torch.minimum(p, 1 - p)
    # The antithetic partner given ξ: it differs with this probability where ξ has the rarer outcome's complement.
    rare = torch.where(p < 0.5, value, 1 - value)
    differs = torch.where(rare > 0.5, torch.ones_like(value), (least / (1 - least)).expand_as(value))
    edge = least < 1e-3
    differs = torch.where(edge, torch.full_like(value, 1e-3), differs)
    draws = torch.rand_like(differs)
    if objective.shared:  # every process must flip these alike
        draws[:, : objective.shared] = torch.rand(objective.shared, generator=objective.generator).to(draws)
    flip = draws < differs
    partner = torch.where(flip, 1 - value, value)
    losses = objective(xi, skip=True)
    difference = losses.detach() - objective.again(partner)
    weight = torch.where(edge, torch.full_like(p, 1e3), 0.5 / least.clamp(min=1e-3))
    signs = value - partner
    if len(value) == 1:
        gradient = difference.mean() * signs[0]
    else:
        gradient = (difference[:, None] * signs).mean(0)
        if objective.shared:
            gradient[: objective.shared] = difference.mean() * signs[0, : objective.shared]
    return losses.mean() + (price * theta).sum() + _with_gradient(theta, gradient * weight)


def auto(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """`paired` for the gates that a batch shares (branches), `second_order` for those each example draws (units).

    Args:
        objective: The batch and the network.
        theta: θ, shape ``(S,)``.
        xi: Gates drawn from θ, shape ``(rows, S)``.
        price: ρ, shape ``(S,)``, nats per example.
    """
    shared = objective.shared
    if shared == theta.numel():
        return paired(objective, theta, xi, price)
    if shared == 0:
        return second_order(objective, theta, xi, price)
    on, off = trapezoid(theta.detach())
    on[:shared] = off[:shared] = 0
    chosen = _choose(objective, shared)
    losses = objective(with_derivative(theta, xi, on, off), skip=True, watch=[chosen])
    gradient = _difference(objective, losses, theta, xi, price, (chosen, shared))
    units = (price[shared:] * theta[shared:]).sum() + (price[:shared] * theta[:shared].detach()).sum()
    return losses.mean() + units + _with_gradient(theta, gradient)


ESTIMATORS: dict[str, Estimator] = {
    "auto": auto,
    "concrete": concrete,
    "disarm": disarm,
    "exact": exact,
    "paired": paired,
    "second_order": second_order,
    "straight_through": straight_through,
}


@checked_arguments
def get_estimator(estimator: str | Estimator) -> Estimator:
    """The estimator of that name, or the function itself.

    Raises:
        ConfigError: for an unknown name.
    """
    if callable(estimator):
        return estimator
    if estimator not in ESTIMATORS:
        raise ConfigError(f"unknown estimator {estimator!r}; known are {', '.join(sorted(ESTIMATORS))}")
    return ESTIMATORS[estimator]
