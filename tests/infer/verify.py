"""What every estimator of the gates' gradient must satisfy, checked against enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from bayesprune.infer import get_estimator
from tests.infer import nets
from tests.infer.nets import Case

Record = Callable[[str, object], None]
NETS = {
    name: getattr(nets, name) for name in ("units", "smooth_units", "branches", "mixed", "shared_units", "linear_units")
}
STANDARD_ERRORS = 4
"""A right estimate misses one entry by more than this with probability 6e-5."""


@dataclass(frozen=True)
class Moments:
    """Bias and spread of an estimator of ∂L/∂θ, shape ``(S,)`` each, nats per example."""

    bias: Tensor
    deviation: Tensor


def all_gates(count: int) -> Tensor:
    """All gate vectors, shape ``(2^S, S)``."""
    return torch.tensor(list(product((0.0, 1.0), repeat=count)), dtype=torch.float64)


def probabilities(theta: Tensor, vectors: Tensor) -> Tensor:
    """Their probabilities under Bern(θ), shape ``(2^S,)``; θ may be one for all or one for each."""
    return torch.where(vectors > 0.5, theta, 1 - theta).prod(1)


def enumerated_gradient(case: Case) -> Tensor:
    """E[C | ξ_s=1] − E[C | ξ_s=0] + ρ_s from the definition, by plain forward passes, shape ``(S,)``."""
    vectors = all_gates(case.net.num_gates)
    theta = case.net.theta.detach()
    with torch.no_grad():
        losses = torch.stack([case.mean_loss(vector) for vector in vectors])
    gradient = []
    for s in range(len(theta)):
        on = vectors[:, s] > 0.5
        fixed = torch.where(torch.arange(len(theta)) == s, on[:, None].double(), theta)
        gradient.append((torch.where(on, 1, -1) * probabilities(fixed, vectors) * losses).sum())
    return torch.stack(gradient) + case.net.price


def estimate(case: Case, estimator: str, xi: Tensor) -> tuple[float, Tensor]:
    """Value of the estimator's loss and its gradient with respect to θ."""
    theta = case.net.theta
    loss = get_estimator(estimator)(case.objective, theta, xi, case.net.price)
    (gradient,) = torch.autograd.grad(loss, theta)
    return float(loss.detach()), gradient


def verify_estimator(estimator: str, case: Case, draws: int, unbiased: slice = slice(None)) -> Moments:
    """Estimates over ``draws`` draws from the guide agree in mean with enumeration at the gates ``unbiased``.

    Values do so at all gates. Returns bias and standard deviation as they were seen.
    """
    truth = enumerated_gradient(case)
    vectors, theta = all_gates(case.net.num_gates), case.net.theta.detach()
    with torch.no_grad():
        expected = sum(p * case.mean_loss(v) for p, v in zip(probabilities(theta, vectors), vectors, strict=True))
        expected = expected + (case.net.price * theta).sum()
    results = [estimate(case, estimator, case.net.sample_gates(case.x)) for _ in range(draws)]
    values = torch.tensor([value for value, _ in results], dtype=torch.float64)
    gradients = torch.stack([gradient for _, gradient in results])
    verify_mean(values[:, None], expected[None], f"{estimator}: value")
    verify_mean(gradients[:, unbiased], truth[unbiased], f"{estimator}: gradient")
    return Moments(gradients.mean(0) - truth, gradients.std(0))


def verify_mean(samples: Tensor, expected: Tensor, where: str) -> None:
    """The mean of ``samples``, shape ``(n, k)``, is within 4 standard errors of ``expected``, shape ``(k,)``."""
    error = (samples.mean(0) - expected).abs()
    allowed = STANDARD_ERRORS * samples.std(0) / len(samples) ** 0.5 + 1e-6 * expected.abs()
    assert bool((error <= allowed).all()), f"{where}: off by {(error / allowed * STANDARD_ERRORS).tolist()} s.e."


def enumerated_moments(estimator: str, case: Case) -> Moments:
    """Exact bias and standard deviation of an estimator that is a function of one draw for the batch alone."""
    vectors, theta = all_gates(case.net.num_gates), case.net.theta.detach()
    weights = probabilities(theta, vectors)[:, None]
    estimates = torch.stack([estimate(case, estimator, vector[None])[1] for vector in vectors])
    mean = (weights * estimates).sum(0)
    return Moments(mean - enumerated_gradient(case), (weights * (estimates - mean).square()).sum(0).sqrt())
