"""Knock-offs: their moments, the rule by hand, and the rate over many data sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesprune.errors import ConfigError, DataError
from bayesprune.selection import (
    friedman_regression,
    knockoff_filter,
    knockoffs,
    power_and_fdr,
    sparse_regression,
)
from bayesprune.sklearn import BayesPruneRegressor

PAIRS = [[2 * k, 2 * k + 1] for k in range(5)]


def marginal(x: Tensor, y: Tensor) -> Tensor:
    """How strongly each column varies with the targets: quick, and wrong in its own way, which the rate survives."""
    return ((x - x.mean(0)) / x.std(0)).T.mul(y - y.mean()).sum(1).abs()


def test_a_column_and_its_knockoff_are_exchangeable() -> None:
    """Covariances of 5,000 rows with those of others: equal to 5 standard errors, whichever of the two is taken."""
    x = 3 + 10 * sparse_regression(5000, 6, 2, correlation=0.5, seed=0).x
    copy = knockoffs(x)
    assert copy.dtype == x.dtype and copy.shape == x.shape
    table = torch.cat((x, copy), 1).double()
    sigma = table.T.cov()
    off = ~torch.eye(6, dtype=torch.bool)
    for part in (sigma[:6, 6:], sigma[6:, 6:]):
        assert (part - sigma[:6, :6])[off].abs().max() < 5 * 100 / 5000**0.5
    torch.testing.assert_close(copy.mean(0), x.mean(0), atol=0.7, rtol=0)
    assert (sigma[:6, 6:].diag() / 100).max() < 0.7  # and not the column itself
    assert torch.equal(knockoffs(x), copy) and not torch.equal(knockoffs(x, seed=1), copy)


def test_groups_may_be_alike_within() -> None:
    """Two columns that are nearly one leave single ones nearly no knock-off, and a group a good one."""
    z = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    x = (z[:, :, None] + 0.05 * torch.randn(2000, 5, 2, generator=torch.Generator().manual_seed(1))).flatten(1)

    def alike(copy: Tensor) -> float:
        return float((((x - x.mean(0)) * (copy - copy.mean(0))).mean(0) / x.var(0)).mean())

    assert alike(knockoffs(x)) > 0.9 and alike(knockoffs(x, groups=PAIRS)) < 0.3


def test_the_rule_by_hand() -> None:
    """W of five columns 5, 4, 3, 2, −1: one false for 4 found is 0.25 at most, which 0.25 allows and 0.2 does not."""
    given = torch.tensor([5.0, 4.0, 3.0, 2.0, 0.0])
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))

    columns = torch.cat((x, knockoffs(x)[:, 4:]), 1).T

    def importance(both: Tensor, _: Tensor) -> list[float]:
        same = (both.T[:, None] == columns).all(2).double()  # which of the columns each is, or none
        return (same @ torch.cat((given, torch.ones(1))).double()).tolist()

    found = knockoff_filter(x, x[:, 0], importance, fdr=0.25)
    assert found.statistics.tolist() == [5, 4, 3, 2, -1] and found.threshold == 2
    assert found.selected.tolist() == [True] * 4 + [False]
    none = knockoff_filter(x, x[:, 0], importance, fdr=0.2)
    assert not none.selected.any() and none.threshold == float("inf")
    together = knockoff_filter(x, x[:, 0], lambda both, _: [1.0] * 10, groups=[[4, 0], [1, 2, 3]])
    assert together.statistics.tolist() == [0, 0] and not together.selected.any()


def test_too_few_rows_are_warned_of() -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="4 rows do not tell how 5 columns vary together, so no false discovery rate"):
        assert knockoffs(x).shape == x.shape


def test_arrays_of_numpy_are_as_good() -> None:
    """Also of whole numbers, that lie backwards, and that are read only."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double()
    y, backwards = x[:, 0] * 2, x.flip(0).numpy()[::-1]
    backwards.flags.writeable = False
    assert torch.equal(knockoffs(backwards), knockoffs(x))
    for given in (x.numpy(), backwards):
        found, expected = knockoff_filter(given, y.numpy(), marginal), knockoff_filter(x, y, marginal)
        assert torch.equal(found.statistics, expected.statistics)
    whole = (4 * x).round()
    torch.testing.assert_close(knockoffs(whole.numpy().astype(np.int32)), knockoffs(whole))


@pytest.mark.statistical
@pytest.mark.parametrize("groups", [None, PAIRS])
def test_the_rate_holds_over_data_sets(groups: list[list[int]] | None) -> None:
    """30 of them, a level of 0.2: a mean proportion above 0.2 + 3 standard errors (0.04) has probability < 0.2 %."""
    proportions, powers = [], []
    for seed in range(30):
        problem = sparse_regression(150, 24, 8, correlation=0.3, effect=0.5, seed=seed)
        if groups is not None:  # 12 pairs of columns, of which a pair matters if one does
            pairs = [[2 * k, 2 * k + 1] for k in range(12)]
            chosen = knockoff_filter(problem.x, problem.y, marginal, groups=pairs, seed=seed).selected[::2]
            support = problem.support.view(12, 2).any(1)
        else:
            chosen = knockoff_filter(problem.x, problem.y, marginal, seed=seed).selected
            support = problem.support
        power, false = power_and_fdr(chosen, support)
        proportions.append(false)
        powers.append(power)
    assert np.mean(proportions) < 0.2 + 3 * 0.04
    assert np.mean(powers) > 0.4


@pytest.mark.slow
@pytest.mark.statistical
def test_the_rate_on_a_curved_function_of_200_columns() -> None:
    """Friedman's, four data sets of 500 rows, at a level of 0.2; five columns matter.

    The expected proportion is at most 0.2. The mean of four, each at most 1, stays below 0.5 with probability > 97 %
    (proportions at the level have a standard deviation of about 0.25).
    """

    def inclusion(x: Tensor, y: Tensor) -> np.ndarray:
        how = {"hidden_layer_sizes": (20,), "prior_inclusion": 0.02, "epochs": 60, "random_state": 0}
        return BayesPruneRegressor(**how).fit(x.numpy(), y.numpy()).inclusion_probabilities_

    found = []
    for seed in range(4):
        problem = friedman_regression(500, 200, seed=seed)
        chosen = knockoff_filter(problem.x, problem.y, inclusion, fdr=0.2, seed=seed).selected
        found.append(power_and_fdr(chosen, problem.support))
    assert np.mean([proportion for _, proportion in found]) < 0.5


REFUSED = {
    "a level of 1": ({"fdr": 1.0}, ConfigError, r"fdr must be in \(0, 1\)"),
    "columns left out": ({"groups": [[0, 1]]}, ConfigError, "each of 3 columns must be in one group"),
    "a column that is none": ({"groups": [[0, 1, 7]]}, ConfigError, "a column must be a whole number, from 0 to 2"),
    "numbers of another table": ({"importance": lambda x, y: [1.0]}, ConfigError, "one number for each of 6 columns"),
    "other rows": (
        {"y": torch.zeros(5)},
        DataError,
        r"table of shape \(20, 3\) and targets of shape \(5,\) do not go together",
    ),
    "a constant column": (
        {"x": torch.tensor([[1.0, 0.1, 2.0], [3.0, 0.1, 1.0]] * 10)},
        DataError,
        "column 1 is constant, so that it can say nothing; leave it out",
    ),
    "words": ({"y": np.array(["a"] * 20)}, DataError, "knockoff_filter: y: an array of <U1 has no numbers"),
    "one row": ({"x": torch.zeros(1, 3), "y": torch.zeros(1)}, DataError, "2 rows or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name: str) -> None:
    changes, error, says = REFUSED[name]
    given = {"x": torch.rand(20, 3), "y": torch.rand(20), "importance": marginal, **changes}
    with pytest.raises(error, match=says):
        knockoff_filter(**given)
