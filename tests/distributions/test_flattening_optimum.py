"""The optimum of the flattening prior given θ, and what it costs, against exact decimals and quadrature."""

from decimal import Decimal

import pytest
import torch

from bayesprune.distributions import FlatteningPrior, bernoulli_kl
from tests.distributions.decimals import DTYPES, cases, log_density, mean, objective, optimum
from tests.distributions.verify import (
    verify_close,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_optimal_and_penalty(dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    for theta, big_l, dt, dl, where in cases(dtype, [0.0, 1e-9, 0.02, 0.5, 0.98, 1 - 1e-7, 1.0]):
        prior = FlatteningPrior(big_l)
        best, penalty = prior.optimal(theta), prior.penalty(theta)
        expected = float(optimum(dt, dl))
        verify_close(best, expected, (8 + big_l.item()) * finfo.eps * expected + finfo.tiny, f"π*, {where}")
        const = -log_density(Decimal(0), dl)
        verify_close(penalty, float(dt * dl + const), 4 * finfo.eps * big_l.item(), f"penalty, {where}")
        in_theta, in_l = torch.autograd.grad(penalty, (theta, big_l))
        verify_close(in_theta, big_l.item(), 0.0, f"slope of the penalty in θ, {where}")
        verify_close(in_l, float(dt - 1 + mean(dl)), 8 * finfo.eps, f"slope of the penalty in log γ, {where}")
        slope = dl.exp() / (dt + dl.exp() * (1 - dt)) ** 2
        (best_slope,) = torch.autograd.grad(best, theta)
        if slope < Decimal(finfo.max) / 10:
            tolerance = (16 + 2 * big_l.item()) * finfo.eps * float(slope) + finfo.tiny
            verify_close(best_slope, float(slope), tolerance, f"slope of π*, {where}")
        else:
            assert best_slope.item() >= 1e37, f"saturated slope of π*, {where}: {best_slope.item()}"
        if dt in (0, 1):
            assert best.item() == theta.item(), f"π* is exact at the ends, {where}"


@pytest.mark.parametrize("log_gamma", [1e-6, 1e-2, 1.0, 18.0, 700.0, 1e5])
@pytest.mark.parametrize("theta", [1e-6, 0.1, 0.5, 0.9, 1 - 1e-6])
def test_penalty_is_the_minimum_over_pi(log_gamma: float, theta: float) -> None:
    """The identity of the flattening: a grid over logit π, then golden section, with 60 digits."""
    dl, dt = Decimal(log_gamma), Decimal(theta)
    low, high = -dl - 40, Decimal(40)
    grid = [low + (high - low) * i / 40 for i in range(41)]
    best = min(range(1, 40), key=lambda i: objective(grid[i], dt, dl))
    low, high = grid[best - 1], grid[best + 1]
    golden = (Decimal(5).sqrt() - 1) / 2
    for _ in range(70):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if objective(left, dt, dl) < objective(right, dt, dl):
            high = right
        else:
            low = left
    prior, t = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64)), torch.tensor(theta, dtype=torch.float64)
    verify_close(prior.penalty(t), float(objective(low, dt, dl)), 1e-14 * log_gamma, "the minimum")
    argmin = float(1 / (1 + (-low).exp()))
    verify_close(prior.optimal(t), argmin, 1e-8 * argmin + 1e-300, "the argmin")


@pytest.mark.parametrize("log_gamma", [1e-6, 1.0, 18.0, 600.0])
def test_no_pi_beats_the_penalty(log_gamma: float) -> None:
    """The same identity with the library's own KL and density, the ends θ = 0 and 1 included."""
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))
    theta = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], dtype=torch.float64)
    best = prior.optimal(theta)
    at_best = bernoulli_kl(theta, best) - prior.log_prob(best)
    torch.testing.assert_close(at_best, prior.penalty(theta), rtol=1e-13, atol=1e-14)
    pi = torch.cat([torch.linspace(0, 1, 201, dtype=torch.float64), torch.logspace(-300, 0, 200, dtype=torch.float64)])
    elsewhere = bernoulli_kl(theta, pi[:, None]) - prior.log_prob(pi[:, None])
    assert bool((elsewhere >= prior.penalty(theta) - 1e-12).all())
