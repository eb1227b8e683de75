"""Selections and their scores by hand."""

import math

import pytest
import torch

from bayesprune.errors import ConfigError
from bayesprune.selection import enumerate_models, power_and_fdr, select, sparse_regression


def flags(text: str) -> torch.Tensor:
    return torch.tensor([letter == "1" for letter in text])


@pytest.mark.parametrize(
    ("selected", "support", "power", "fdp"),
    [
        ("11010", "11100", 2 / 3, 1 / 3),
        ("11100", "11100", 1.0, 0.0),
        ("00011", "11100", 0.0, 1.0),
        ("00000", "11100", 0.0, 0.0),
        ("11111", "00100", 1.0, 4 / 5),
        ("10000", "00000", math.nan, 1.0),
        ("00000", "00000", math.nan, 0.0),
    ],
)
def test_power_and_false_discoveries(selected: str, support: str, power: float, fdp: float) -> None:
    found = power_and_fdr(flags(selected), flags(support))
    assert found == pytest.approx((power, fdp), nan_ok=True)
    assert (found.power, found.fdp) == pytest.approx((power, fdp), nan_ok=True)


@pytest.mark.parametrize(
    ("fdr", "selected"),
    [
        (0.0, "00010"),  # 1 - p in order: 0, 0.05, 0.25, 0.5, 0.9; their running means 0, 0.025, 0.1, 0.2, 0.34
        (0.024, "00010"),
        (0.025, "00110"),
        (0.099, "00110"),
        (0.1, "10110"),
        (0.2, "11110"),
        (0.33, "11110"),
        (0.34, "11111"),
        (1.0, "11111"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_set_within_the_level(fdr: float, selected: str, dtype: torch.dtype) -> None:
    probabilities = torch.tensor([0.75, 0.5, 0.95, 1.0, 0.1], dtype=dtype)
    assert select(probabilities, fdr).tolist() == flags(selected).tolist()


def test_a_level_is_reached_by_inputs_that_are_all_at_it() -> None:
    assert select(torch.full((1000,), 0.9), 0.1).all()  # 0.9 is 0.89999998 in float32
    assert not select(torch.full((1000,), 0.8999), 0.1).any()


def test_of_equal_inputs_that_do_not_all_fit_the_first_do() -> None:
    assert select(torch.tensor([0.8, 1.0, 0.8, 0.8]), 0.1).tolist() == flags("1100").tolist()


def test_nothing_likely_means_nothing_selected() -> None:
    assert select(torch.tensor([0.3, 0.89])).tolist() == [False, False]
    assert select(torch.zeros(0)).tolist() == []


@pytest.mark.statistical
def test_the_expected_rate_is_the_rate_where_the_model_is_true() -> None:
    """Gates and coefficients drawn from the prior: the excess of the share of false discoveries over its posterior mean
    has mean 0; within 4.5 standard errors over 200 data sets, which fails for 1 seed in 150,000."""
    excess, coefficients = [], torch.Generator().manual_seed(0)
    for seed in range(200):
        drawn = sparse_regression(30, 6, 0, correlation=0.5, seed=seed)
        on = torch.rand(6, generator=coefficients) < 0.4
        y = drawn.y + drawn.x @ (on * torch.randn(6, generator=coefficients))
        inclusion = enumerate_models(drawn.x, y, inclusion=0.4, intercept_scale=0.0).inclusion
        chosen = select(inclusion, 0.3)
        expected = float((1 - inclusion[chosen]).mean()) if chosen.any() else 0.0
        assert expected <= 0.3 + 1e-6
        excess.append(power_and_fdr(chosen, on).fdp - expected)
    values = torch.tensor(excess)
    assert values.std() > 0.05  # there are false discoveries
    assert abs(values.mean()) < 4.5 * values.std() / math.sqrt(200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([0.5]), -0.1), r"fdr must be in \[0, 1\], got -0.1"),
        ((torch.tensor([0.5]), math.nan), "got nan; 0.05 to 0.2 are usual"),
        ((torch.tensor([0.5, 1.5]), 0.1), "values outside"),
        ((torch.tensor([0.5, math.nan]), 0.1), "NaN"),
        ((torch.ones(2, 2), 0.1), r"got shape \(2, 2\)"),
    ],
)
def test_select_refuses_what_are_no_probabilities(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select(*arguments)


@pytest.mark.parametrize(
    ("selected", "support"),
    [
        (torch.ones(3), flags("110")),
        (flags("110"), torch.ones(3)),
        (flags("110"), flags("11")),
        (flags("1"), torch.tensor(True)),
    ],
)
def test_power_refuses_what_are_no_selections(selected: torch.Tensor, support: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="expected selected and support to be bool"):
        power_and_fdr(selected, support)
