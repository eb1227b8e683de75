"""Figures of predictions of numbers: by hand, by scikit-learn, and by what a normal distribution promises."""

import math

import pytest
import torch
from sklearn.metrics import mean_squared_error
from torch.distributions import Normal

from bayesprune.errors import DataError
from bayesprune.metrics import coverage, regression_scores


def test_values_by_hand():
    low, high = torch.tensor([0.0, 1.0, -1.0, 2.0]), torch.tensor([1.0, 4.0, -0.5, 2.0])
    assert coverage(low, high, torch.tensor([0.5, 5.0, -1.0, 2.0])) == 0.75  # ends are inside
    scores = regression_scores(torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 2.0]), torch.tensor([4.0, 6.0]))
    assert scores.log_likelihood == -2.0
    assert scores.rmse == pytest.approx(math.sqrt((9 + 16) / 2))


def test_the_error_is_that_of_scikit_learn_in_float64():
    mean = 1e6 + torch.randn(500, dtype=torch.float64)
    targets = mean + 1e-3 * torch.randn(500, dtype=torch.float64)
    scores = regression_scores(torch.zeros(500), mean, targets)
    assert scores.rmse == pytest.approx(math.sqrt(mean_squared_error(targets, mean)), rel=1e-12)


def test_intervals_of_the_true_distribution_cover_what_they_promise():
    # The standard error at 4000 targets is 0.0034 for 95 %, 0.0079 for 50 %; over 4.5 of them fails once in 10^5.
    mean, std = torch.randn(4000), torch.rand(4000) + 0.1
    y = torch.normal(mean, std)
    for promised, z in ((0.95, 1.959964), (0.5, 0.674490)):
        found = coverage(mean - z * std, mean + z * std, y)
        assert abs(found - promised) < 4.5 * math.sqrt(promised * (1 - promised) / 4000)


def test_the_true_distribution_has_the_likelihood_of_its_entropy():
    # log p has mean -entropy and variance 1/2; 4.5 standard errors fail once in 10^5.
    y = torch.randn(4000)
    scores = regression_scores(Normal(0.0, 1.0).log_prob(y), torch.zeros(4000), y)
    assert abs(scores.log_likelihood + 0.5 * math.log(2 * math.pi * math.e)) < 4.5 * math.sqrt(0.5 / 4000)
    assert scores.rmse == pytest.approx(float(y.square().mean().sqrt()), rel=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "targets", "says"),
    [
        ([0.0], [1.0], [0.0, 1.0], ("one shape", "'targets': (2,)")),
        ([[0.0], [0.0]], [[1.0], [1.0]], [0.0, 1.0], ("one shape", "(2, 1)", "squeeze(1)")),
        ([], [], [], ("at least one example", "(0,)")),
        ([0.0, 0.0], [1.0, math.nan], [0.0, 0.0], ("finite high", "1 of 2")),
        ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0], ("low <= high", "1 of 2", "swap")),
    ],
)
def test_intervals_that_are_none_are_refused(low: list, high: list, targets: list, says: tuple[str, ...]):
    with pytest.raises(DataError) as caught:
        coverage(*(torch.tensor(values) for values in (low, high, targets)))
    assert str(caught.value).startswith("coverage:")
    assert [part for part in says if part not in str(caught.value)] == []


def test_scores_of_different_examples_are_refused():
    with pytest.raises(DataError, match="regression_scores: expected tensors of one shape"):
        regression_scores(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1))
