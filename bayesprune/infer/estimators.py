"""Estimators of ∂L/∂θ, L(θ) = E_{ξ~Bern(θ)}[C(ξ)] + Σ_s ρ_s θ_s, all of one signature.

C(ξ) is the mean negative log-likelihood of a batch with gates ξ, ρ_s the price of a gate; both in nats per example. An
estimator returns a scalar whose *value* is C(ξ) + Σ_s ρ_s θ_s at the sample and whose *gradient* with respect to θ is
its estimate (with respect to the weights, the plain gradient of C(ξ)). L is multilinear in θ, so ∂L/∂θ_s = E[C | ξ_s=1]
− E[C | ξ_s=0] + ρ_s.

To add one, write a function of this signature, enter it in ``ESTIMATORS`` and in the table of
``tests/infer/test_estimators.py``, which checks all of them against enumeration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError

MAX_ENUMERATED = 16
NUDGE = 2.0**-20
"""What stands for 0 where a derivative at ξ = 0 is taken.

A gate may sit before its activation, and relu'(0) is 0 in torch, while the derivative that counts is the one from the
right, which relu(ξ a) has at any ξ > 0.
"""
TEMPERATURE = 0.5
"""Of the concrete relaxation, as in SS-IG."""
FLOOR = 0.1
"""Smallest probability of an outcome by which a derivative seen at that outcome is divided."""


class Objective(Protocol):
    """A batch and a network, waiting for gate values."""

    shared: int
    """How many leading gates have one value for the whole batch."""
    generator: torch.Generator | None
    """Where random choices are drawn that every process must make alike; ``None`` for torch's global one."""

    def __call__(self, xi: Tensor, *, skip: bool = False, watch: Sequence[int] = ()) -> Tensor:
        """Differentiable negative log-likelihoods, shape ``(B,)``.

        ``skip`` leaves out branches that are off; ``watch`` names the shared gates that `flipped` will be asked for.
        """

    def again(self, xi: Tensor) -> Tensor:
        """The same without gradient, with the dropout masks of the first call; running statistics stay as they are."""

    def flipped(self, s: int) -> Tensor:
        """As `again`, with the gates of the last call, but for the shared gate ``s``; computed from its block on."""


Estimator = Callable[[Objective, Tensor, Tensor, Tensor], Tensor]
"""(objective, θ of shape (S,), ξ of shape (rows, S) drawn from θ, ρ of shape (S,)) → scalar loss, nats per example."""


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


def _trapezoid(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a derivative seen at ξ = 1 and at ξ = 0; the two expected weights add up to 1."""
    on, off = theta.clamp(min=FLOOR), (1 - theta).clamp(min=FLOOR)
    return (1 - 0.5 * (1 - theta) / off) / on, (1 - 0.5 * theta / on) / off


def _with_gradient(theta: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of value 0 whose gradient with respect to θ is ``gradient``."""
    return (gradient * (theta - theta.detach())).sum()


def exact(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """Enumeration of all 2^S gate vectors: the exact loss and gradient, the oracle of every other estimator.

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


def straight_through(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """First order: ∂C/∂ξ_s at the sample (Bengio et al. 2013). Biased where C is curved in ξ_s; no extra pass."""
    ones = torch.ones_like(theta)
    return objective(_WeightedDerivative.apply(theta, xi, ones, ones)).mean() + (price * theta).sum()


def second_order(objective: Objective, theta: Tensor, xi: Tensor, price: Tensor) -> Tensor:
    """Trapezoid rule for C(1) − C(0): the mean of ∂C/∂ξ_s at ξ_s = 1 and at ξ_s = 0 (Liu et al. 2023, ReinMax).

    The derivative at the sample is weighted by ½/θ_s if ξ_s = 1 and by ½/(1−θ_s) if ξ_s = 0. Exact where C is quadratic
    in each ξ_s and θ_s is in [``FLOOR``, 1 − ``FLOOR``]. Nearer to an end, the weight of the rare outcome is capped and
    what it lacks goes to the common one, so that at θ_s = 0 or 1 an estimate still exists: the derivative at the only
    sampled end.

    Where the loss has kinks between the ends, as with max-pooling behind a layer that mixes gated filters, the sign may
    be wrong. Of units before a BatchNorm in training mode it has less bias than `paired`, but for very small batches.
    """
    on, off = _trapezoid(theta.detach())
    return objective(_WeightedDerivative.apply(theta, xi, on, off)).mean() + (price * theta).sum()


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
    """
    p = theta.detach().clamp(FLOOR / 100, 1 - FLOOR / 100)
    inside = torch.rand_like(xi)
    if objective.shared:
        inside[:, : objective.shared] = torch.rand(objective.shared, generator=objective.generator).to(inside)
    u = torch.where(xi > 0.5, 1 - p * inside, (1 - p) * inside)
    relaxed = torch.sigmoid((torch.logit(p) + torch.logit(u, eps=1e-6)) / TEMPERATURE)
    weight = relaxed * (1 - relaxed) / (TEMPERATURE * p * (1 - p))
    return objective(_RowWeightedDerivative.apply(theta, xi, weight)).mean() + (price * theta).sum()


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
    """`paired` for the gates that a batch shares (branches), `second_order` for those each example draws (units)."""
    shared = objective.shared
    if shared == theta.numel():
        return paired(objective, theta, xi, price)
    if shared == 0:
        return second_order(objective, theta, xi, price)
    on, off = _trapezoid(theta.detach())
    on[:shared] = off[:shared] = 0
    chosen = _choose(objective, shared)
    losses = objective(_WeightedDerivative.apply(theta, xi, on, off), skip=True, watch=[chosen])
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
