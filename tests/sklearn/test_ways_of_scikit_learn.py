"""The estimators behave as scikit-learn's users expect: copies, pipelines, searches, frames, seeds."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bayesprune.sklearn import BayesPruneRegressor, base
from tests.sklearn.problems import (
    NEW,
    brief,
    linear_table,
    plain,
    regressor,
)


def test_the_same_seed_gives_the_same_estimator_and_nothing_else_changes() -> None:
    X, y = linear_table(60)
    threads, numbers, legacy = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.set_num_threads(2)
    try:
        first, again, other = (brief(random_state=seed).fit(X, y).predict(X) for seed in (3, 3, 4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), numbers)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)
    assert not pyro.get_param_store().keys()


def test_a_prediction_does_not_depend_on_the_rows_beside_it(
    fitted: BayesPruneRegressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, _ = NEW
    whole = fitted.predict(X[:50])
    monkeypatch.setattr(base, "ROWS", 7)
    np.testing.assert_allclose(fitted.predict(X[:50]), whole, rtol=1e-10)
    np.testing.assert_allclose(fitted.predict(X[20:21]), whole[20:21], rtol=1e-10)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"])
def test_copies_predict_the_same(fitted: BayesPruneRegressor, duplicate) -> None:  # type: ignore[no-untyped-def]
    X, _ = NEW
    twin = duplicate(fitted)
    np.testing.assert_array_equal(twin.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(plain(twin, X), plain(fitted, X))


def test_in_a_pipeline_and_a_grid_search() -> None:
    X, y = linear_table(90)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), regressor(epochs=40)),
        {"bayespruneregressor__prior_inclusion": [1e-9, 0.5]},
        cv=2,
    ).fit(X, y)
    assert search.best_params_ == {"bayespruneregressor__prior_inclusion": 0.5}
    assert search.score(*NEW) > 0.7


def test_as_a_selector_in_a_pipeline(fitted: BayesPruneRegressor) -> None:
    selector = SelectFromModel(fitted, importance_getter="inclusion_probabilities_", threshold=0.5, prefit=True)
    assert make_pipeline(selector, LinearRegression()).fit(*NEW)[-1].coef_.round(1).tolist() == [1.0, -0.7, 0.5]


def test_frames_keep_the_names_of_their_columns() -> None:
    X, y = linear_table(60)
    names = [f"input {i}" for i in range(10)]
    frame = pd.DataFrame(X, columns=names)
    found = brief().fit(frame, pd.Series(y, index=range(100, 160)))
    assert found.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(found.predict(frame), brief().fit(X, y).predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(frame[names[::-1]])


def test_parameters_are_kept_as_given() -> None:
    given = brief(hidden_layer_sizes=[4, 3], weights="point")
    assert clone(given).get_params() == given.get_params()
    found = clone(given).set_params(epochs=2).fit(*linear_table(40))
    assert (found.n_iter_, found.network_.weights_posterior.name, len(found.history_.rows)) == (2, "point", 2)
    assert [len(theta) for theta in found.network_.gate_probs().values()] == [10, 4, 3]
    assert found.get_params()["hidden_layer_sizes"] == [4, 3]
    named = brief(hidden_layer_sizes=[4, 3], slab="point", epochs=2).fit(*linear_table(40))
    x = linear_table(40)[0]
    np.testing.assert_array_equal(named.predict(x), found.predict(x))
