"""Mean field: exact where inputs are orthogonal, a best approximation elsewhere, and how far off it then is."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, kl_divergence

from bayesprune.errors import ConfigError
from bayesprune.selection import (
    enumerate_models,
    mean_field,
    power_and_fdr,
    select,
    sparse_regression,
    variational,
)
from bayesprune.selection.regression import reduce
from tests.selection.test_exact import orthogonal, regression

SETTINGS = {"inclusion": 0.4, "slab_scale": 0.7, "noise_scale": 1.3}


def divergence(
    x: torch.Tensor, y: torch.Tensor, alpha: torch.Tensor, mu: torch.Tensor, variance: torch.Tensor
) -> float:
    """KL(q ‖ exact posterior of gates and coefficients), summed over all models, nats."""
    exact = enumerate_models(x, y, **SETTINGS)
    problem = reduce(x, y, intercept_scale=math.inf, **SETTINGS)
    precision = problem.gram + torch.eye(len(mu), dtype=torch.float64) / SETTINGS["slab_scale"] ** 2
    total = 0.0
    for model, probability in zip(exact.models, exact.probabilities, strict=True):
        share = Bernoulli(alpha).log_prob(model.double()).sum()
        gap = share - probability.log()
        if model.any():  # coefficients that are off follow the prior in both
            inside = precision[model][:, model]
            posterior = MultivariateNormal(torch.linalg.solve(inside, problem.cross[model]), precision_matrix=inside)
            gap = gap + kl_divergence(MultivariateNormal(mu[model], variance[model].diag()), posterior)
        total += float(share.exp() * gap)
    return total


def test_orthogonal_inputs_are_exact() -> None:
    x = orthogonal(50, 5)
    y = x @ torch.tensor([0.6, 0.0, 0.1, -0.04, 0.0], dtype=torch.float64) + torch.randn(50, dtype=torch.float64)
    found, exact = mean_field(x, y, **SETTINGS), enumerate_models(x, y, **SETTINGS)
    assert 0.01 < exact.inclusion.min() < 0.5 < exact.inclusion.max()
    for name in ("inclusion", "mean", "variance"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-9, atol=1e-11)
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=1e-9)


def test_the_bound_is_the_evidence_less_the_divergence_and_cannot_be_raised() -> None:
    x, y = regression(15)
    found = mean_field(x, y, **SETTINGS)
    alpha, mu = found.inclusion, found.mean / found.inclusion
    variance = found.variance / alpha - (1 - alpha) * mu.square()
    least = divergence(x, y, alpha, mu, variance)
    assert least > 0.01  # these inputs are correlated
    assert enumerate_models(x, y, **SETTINGS).log_evidence - found.log_evidence == pytest.approx(least, abs=1e-9)
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 1e-3
        for sign in (-1, 1):
            assert divergence(x, y, alpha + sign * step, mu, variance) > least
            assert divergence(x, y, alpha, mu + sign * step, variance) > least
            assert divergence(x, y, alpha, mu, variance * (1 + sign * step)) > least


@pytest.mark.parametrize(
    ("correlation", "mean", "largest"),
    [(0.0, 0.0068, 0.063), (0.3, 0.023, 0.166), (0.6, 0.064, 0.397), (0.9, 0.163, 0.797)],
)
def test_how_far_it_is_off_under_correlation(correlation: float, mean: float, largest: float) -> None:
    """Eight inputs, 100 examples, three coefficients of 0.3, 20 seeds: as the benchmark prints it."""
    deviations = []
    for seed in range(20):
        problem = sparse_regression(100, 8, 3, correlation=correlation, effect=0.3, seed=seed)
        exact = enumerate_models(problem.x, problem.y, inclusion=3 / 8)
        found = mean_field(problem.x, problem.y, inclusion=3 / 8)
        assert found.log_evidence <= exact.log_evidence
        deviations.append((found.inclusion - exact.inclusion).abs())
    assert torch.stack(deviations).mean().item() == pytest.approx(mean, rel=0.02)
    assert torch.stack(deviations).max().item() == pytest.approx(largest, rel=0.02)


def test_more_starts_find_no_lower_bound() -> None:
    better = 0
    for seed in range(12):
        problem = sparse_regression(100, 5, 2, correlation=0.95, effect=0.3, seed=seed)
        exact = enumerate_models(problem.x, problem.y, inclusion=0.4)
        usual = mean_field(problem.x, problem.y, inclusion=0.4)
        every = mean_field(problem.x, problem.y, inclusion=0.4, starts=exact.models)
        assert usual.log_evidence - 1e-8 <= every.log_evidence <= exact.log_evidence
        better += every.log_evidence > usual.log_evidence + 1e-4
    assert 0 < better < 12


def test_of_two_equal_columns_it_takes_one() -> None:
    """The posterior has them at ½ each (`test_exact`); a factorised law cannot say one or the other."""
    x = torch.randn(80, 1).repeat(1, 2)
    found = mean_field(x, 1.5 * x[:, 0] + torch.randn(80), inclusion=1e-3)
    assert found.inclusion.sort().values.tolist() == pytest.approx([0.0, 1.0], abs=1e-3)


def test_certain_inclusion_is_kept() -> None:
    x, y = regression(20)
    found = mean_field(x, y, inclusion=torch.tensor([0.0, 1.0, 0.5]))
    assert found.inclusion[:2].tolist() == [0.0, 1.0]
    assert math.isfinite(found.log_evidence)
    alone = mean_field(x[:, 1:], y, inclusion=torch.tensor([1.0, 0.5]))
    assert found.log_evidence == pytest.approx(alone.log_evidence, abs=1e-8)


def test_more_inputs_than_examples() -> None:
    """Five coefficients of 1 among 300 inputs are found from 100 examples."""
    scores = []
    for seed in range(5):
        problem = sparse_regression(100, 300, 5, correlation=0.5, seed=seed)
        found = mean_field(problem.x, problem.y, inclusion=5 / 300)
        scores.append(power_and_fdr(select(found.inclusion, 0.1), problem.support))
    assert [score.power for score in scores] == [1.0] * 5
    assert sum(score.fdp for score in scores) / 5 <= 0.1


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (torch.ones(2, 3), "bool, one row a model, got torch.float32"),
        (torch.ones(3, dtype=torch.bool), r"shape \(starts, 3\)"),
        (torch.ones(0, 3, dtype=torch.bool), r"of shape \(0, 3\)"),
        (torch.ones(1, 4, dtype=torch.bool), r"of shape \(1, 4\); leave them out"),
    ],
)
def test_starts_that_are_no_models_are_refused(starts: torch.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mean_field(*regression(9), inclusion=0.5, starts=starts)


def test_an_ascent_without_an_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variational, "MAX_SWEEPS", 3)
    with pytest.raises(ConfigError, match=r"not at its end after 3 sweeps.*nearly collinear"):
        mean_field(*regression(9), inclusion=0.5)
