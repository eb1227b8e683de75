"""Interactions against closed forms; what several runs agree on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesprune.errors import ConfigError, DataError
from bayesprune.selection import enumerate_models, interactions, mean_field, power_and_fdr, select, stability

X = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))


def curved(x: Tensor) -> Tensor:
    """Of independent normal inputs: variance 4 + 9 + 1 + 2 = 16, of which 9 by the product, 2 by the square."""
    return 2 * x[:, 0] + 3 * x[:, 0] * x[:, 1] + x[:, 2] + x[:, 3].square()


@pytest.mark.statistical
def test_shares_of_the_variance() -> None:
    """Within 5 standard errors of about 4 % of each, from 20,000 pairs of rows."""
    found = interactions(curved, X, num_rows=20_000)
    expected = torch.tensor([[13, 9, 0, 0], [9, 9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]]).double() / 16
    torch.testing.assert_close(found, expected, rtol=0.2, atol=1e-9)
    torch.testing.assert_close(found, found.T)


def test_some_columns_in_their_order() -> None:
    whole, part = interactions(curved, X), interactions(lambda x: curved(x)[:, None].numpy(), X, inputs=[1, 0])
    torch.testing.assert_close(part, whole[:2, :2].flip(0, 1))
    assert torch.equal(interactions(curved, X), whole)


@pytest.mark.statistical
def test_columns_of_a_category_change_together() -> None:
    """One of two colours at random, and what red does: f = 2 x r + x + b.

    Written with r = ½ + s/2, f = x s + 2 x + ½ − s/2: variance 1 by the product, 4 by x alone, ¼ by s alone. Within
    5 standard errors of about 4 %. One column alone would give rows that are both colours or none.
    """
    red = (torch.rand(5000, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    table = torch.stack((red, 1 - red, X[:, 0], X[:, 1]), 1)

    def predict(x: Tensor) -> Tensor:
        return 2 * x[:, 0] * x[:, 2] + x[:, 2] + x[:, 1]

    found = interactions(predict, table, inputs=[[0, 1], 2, 3], num_rows=20_000)
    expected = torch.tensor([[1.25, 1, 0], [1, 5, 0], [0, 0, 0]]).double() / 5.25
    torch.testing.assert_close(found, expected, rtol=0.2, atol=1e-9)


REFUSED = {
    "a column that is none": ({"inputs": [4]}, ConfigError, "an input must be a whole number, from 0 to 3"),
    "a column twice": ({"inputs": [1, 1]}, ConfigError, "each once"),
    "a column in two groups": ({"inputs": [[0, 1], 1]}, ConfigError, "each once"),
    "an empty group": ({"inputs": [[], 1]}, ConfigError, "one column or more"),
    "two outputs": ({"predict": lambda x: x[:, :2]}, DataError, "one finite number for each of 512 rows"),
    "a constant": ({"predict": lambda x: torch.ones(len(x))}, DataError, "all predictions are the same"),
    "one row": ({"x": X[:1]}, DataError, "2 rows or more"),
    "one pair": ({"num_rows": 1}, ConfigError, "num_rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name: str) -> None:
    changes, error, says = REFUSED[name]
    with pytest.raises(error, match=says):
        interactions(**{"predict": curved, "x": X, **changes})


def test_arrays_of_numpy_are_as_good() -> None:
    torch.testing.assert_close(interactions(curved, X.numpy()), interactions(curved, X))
    runs = np.array([[0.9, 0.1], [0.8, 0.6], [1.0, 0.2]])
    for found, expected in zip(stability(runs), stability(torch.tensor(runs)), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(select(runs[1], 0.3), select(torch.tensor(runs[1]), 0.3))
    assert power_and_fdr(runs[1] > 0.5, np.array([True, False])) == (1, 0.5)
    x, y = X[:20, :2], X[:20, 0]
    for posterior in (enumerate_models, mean_field):
        given = posterior(x.numpy(), y.numpy(), inclusion=np.array([0.5, 0.2]))
        assert torch.equal(
            given.inclusion, posterior(x, y, inclusion=torch.tensor([0.5, 0.2], dtype=torch.float64)).inclusion
        )
    with pytest.raises(ConfigError, match="probabilities must be a real torch Tensor or a real array of numpy, got"):
        stability(runs.tolist())  # type: ignore[arg-type]


def test_what_several_runs_agree_on() -> None:
    runs = torch.tensor([[1.0, 0.4, 0.6], [0.9, 0.0, 0.2], [0.8, 0.1, 0.7], [0.9, 0.5, 0.3], [1.0, 0.2, 0.51]])
    found = stability(runs, level=0.9)
    assert found.frequency.tolist() == [1, 0, pytest.approx(0.6)]
    for k, hits in enumerate((5, 0, 3)):
        interval = stats.binomtest(hits, 5).proportion_ci(0.9, "wilson")
        assert (float(found.low[k]), float(found.high[k])) == pytest.approx(tuple(interval), abs=1e-9)
    torch.testing.assert_close(found.mean, runs.double().mean(0))
    torch.testing.assert_close(found.error, runs.double().std(0) / 5**0.5)
    for wrong in (runs[:1], runs[0], 2 * runs, runs / 0):
        with pytest.raises(ConfigError, match="two runs or more"):
            stability(wrong)
