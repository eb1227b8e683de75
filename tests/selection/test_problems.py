"""Synthetic regressions have the moments, the support and the seeds that they say."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from bayesprune.errors import ConfigError
from bayesprune.selection import friedman_regression, sparse_regression


@pytest.mark.statistical
@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
def test_inputs_are_an_autoregression(correlation: float) -> None:
    """27 means, variances and covariances within 4.5 standard errors: fails for about 1 seed in 5000."""
    count = 20_000
    x = sparse_regression(count, 6, 2, correlation=correlation, seed=1).x.double()
    step = torch.arange(6)
    expected = correlation ** (step[:, None] - step).abs().double()
    errors = ((1 + expected.square()) / count).sqrt()  # of covariances of Gaussians of variance 1
    assert ((x.T @ x / count - expected).abs() < 4.5 * errors).all()
    assert (x.mean(0).abs() < 4.5 / math.sqrt(count)).all()


@pytest.mark.statistical
def test_targets_are_the_linear_function_and_noise() -> None:
    """Five z-scores within 4.5: fails for about 1 seed in 30,000."""
    count = 20_000
    problem = sparse_regression(count, 10, 4, correlation=0.5, effect=0.3, noise_scale=2.0, seed=2)
    assert problem.coefficients is not None
    assert problem.coefficients[problem.support].abs().tolist() == pytest.approx([0.3] * 4)
    assert problem.coefficients[~problem.support].abs().sum() == 0 and int(problem.support.sum()) == 4
    noise = (problem.y - problem.x @ problem.coefficients).double() / 2.0
    assert abs(noise.square().mean() - 1) < 4.5 * math.sqrt(2 / count)
    along = noise @ problem.x.double()[:, problem.support] / math.sqrt(count)
    assert (along.abs() < 4.5).all()


@pytest.mark.statistical
def test_active_inputs_and_signs_are_drawn_evenly() -> None:
    """Six counts within 4.5 standard errors: fails for about 1 seed in 25,000."""
    problems = [sparse_regression(1, 5, 2, seed=seed) for seed in range(500)]
    active = torch.stack([problem.support for problem in problems]).double().mean(0)
    assert ((active - 0.4).abs() < 4.5 * math.sqrt(0.4 * 0.6 / 500)).all()
    signs = torch.stack([problem.coefficients for problem in problems]).sum()  # of 1000 coefficients, ±1
    assert abs(signs) < 4.5 * math.sqrt(1000)


def test_without_noise_the_targets_are_exact() -> None:
    problem = sparse_regression(30, 200, 3, noise_scale=0.0)
    torch.testing.assert_close(problem.y, problem.x @ problem.coefficients)
    assert problem.x.shape == (30, 200) and problem.x.dtype == problem.y.dtype == torch.float32
    nothing = sparse_regression(30, 4, 0)
    assert not nothing.support.any() and nothing.y.std() > 0.5


def test_friedman_is_its_formula() -> None:
    problem = friedman_regression(400, 12, noise_scale=0.0, seed=3)
    x = problem.x.double().T
    expected = 10 * torch.sin(math.pi * x[0] * x[1]) + 20 * (x[2] - 0.5) ** 2 + 10 * x[3] + 5 * x[4]
    torch.testing.assert_close(problem.y, expected.float(), rtol=1e-5, atol=1e-5)
    assert problem.support.tolist() == [True] * 5 + [False] * 7 and problem.coefficients is None
    assert problem.x.min() >= 0 and problem.x.max() <= 1
    assert problem.y.std().item() == pytest.approx(4.9, rel=0.1)


def test_friedman_adds_noise_of_its_scale() -> None:
    """A standard deviation from 20,000 draws, within 4.5 standard errors: fails for 1 seed in 150,000."""
    noisy, exact = (friedman_regression(20_000, 5, noise_scale=scale, seed=4) for scale in (1.5, 0.0))
    assert torch.equal(noisy.x, exact.x)
    assert (noisy.y - exact.y).std().item() == pytest.approx(1.5, rel=4.5 / math.sqrt(40_000))


@pytest.mark.parametrize("make", [partial(sparse_regression, 20, 8, 3), partial(friedman_regression, 20, 8)])
def test_a_seed_is_a_data_set_and_leaves_the_session_alone(make: partial) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = make(seed=5), make(seed=5), make(seed=6)
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert torch.equal(first.support, again.support)
    assert not torch.isclose(first.x, other.x).any()
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(sparse_regression, 0, 5, 2), "num_data must be a whole number, at least 1, got 0"),
        (partial(sparse_regression, 5, 0, 0), "num_inputs must be a whole number, at least 1, got 0"),
        (partial(sparse_regression, 5, 5, 6), "num_active must be a whole number, from 0 to 5, got 6"),
        (partial(sparse_regression, 5, 5, -1), "got -1"),
        (partial(sparse_regression, 5, 5, 2, correlation=1.0), r"correlation must be in \(-1, 1\), got 1.0"),
        (partial(sparse_regression, 5, 5, 2, effect=0.0), "effect must be positive"),
        (
            partial(sparse_regression, 5, 5, 2, noise_scale=-1.0),
            "must be finite and not negative, got -1.0",
        ),
        (partial(sparse_regression, 5, 5, 2, noise_scale=math.nan), "got nan"),
        (
            partial(friedman_regression, 5, 4),
            "num_inputs must be a whole number, at least 5, got 4; the function",
        ),
        (partial(friedman_regression, 0, 5), "friedman_regression: num_data must be a whole number, at least 1, got 0"),
        (
            partial(friedman_regression, 5, 5, noise_scale=math.inf),
            "must be finite and not negative, got inf",
        ),
    ],
)
def test_impossible_problems_are_refused(make: partial, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
