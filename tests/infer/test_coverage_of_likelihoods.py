"""Intervals hold as many new targets as they say, where the noise varies and where it has heavy tails."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bayesprune.sklearn import BayesPruneRegressor

pytestmark = [pytest.mark.slow, pytest.mark.statistical]


def varying(rows: int, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
    """A sine of one input; another tells the noise, from 0.1 to 0.9; a third says nothing."""
    X = generator.uniform(-2, 2, (rows, 3))
    return X, np.sin(2 * X[:, 0]) + (0.5 + 0.2 * X[:, 1]) * generator.standard_normal(rows)


def test_noise_that_depends_on_an_input() -> None:
    """500 rows tell the scale to 3 %, so coverage to 1.5 points; 5,000 new targets to 0.7: 3 points are 1.8 sigma each.

    The seed is fixed; with another one of three levels is missed by chance with probability 15 % at most.
    """
    generator = np.random.default_rng(0)
    found = BayesPruneRegressor(likelihood="heteroscedastic", random_state=0).fit(*varying(500, generator))
    X, y = varying(5000, generator)
    for level in (0.5, 0.8, 0.95):
        low, high = found.predict_interval(X, level).T
        assert abs(((low < y) & (y < high)).mean() - level) < 0.03
    narrow, wide = (np.median(found.predict(X[there], return_std=True)[1]) for there in (X[:, 1] < -1, X[:, 1] > 1))
    assert 0.15 < narrow < 0.3 and 0.65 < wide < 0.95  # by construction 0.2 and 0.8
    assert found.inclusion_probabilities_[:2].min() > 0.9 and found.inclusion_probabilities_[2] < 0.5
