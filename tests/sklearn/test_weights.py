"""Weights of rows, and bad input."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from bayesprune.errors import BayesPruneError, ConfigError, DataError
from tests.sklearn.problems import brief, classifier, linear_table, regressor, three_classes

X, Y = linear_table(60)
ODD = np.arange(60) % 2
FRAME, DAY = pd.DataFrame(X[:, :3], columns=list("abc")), pd.Timestamp("2020-01-01")
PEAK = np.unravel_index(X.argmax(), X.shape)


def test_rows_of_weight_0_count_as_absent() -> None:
    weighted = brief().fit(X, Y, sample_weight=ODD)
    np.testing.assert_array_equal(weighted.predict(X), brief().fit(X[ODD == 1], Y[ODD == 1]).predict(X))


def test_only_ratios_of_weights_matter() -> None:
    weights = 1.0 + ODD
    once = brief().fit(X, Y, sample_weight=weights).predict(X)
    np.testing.assert_array_equal(brief().fit(X, Y, sample_weight=1024 * weights).predict(X), once)
    np.testing.assert_array_equal(brief().fit(X, Y, sample_weight=[3] * 60).predict(X), brief().fit(X, Y).predict(X))
    assert np.abs(brief().fit(X, Y).predict(X) - once).max() > 1e-3


@pytest.mark.statistical
def test_a_weight_counts_as_repetition() -> None:
    """Half of the rows have another slope, and three times the weight; a linear model ends between the two."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((400, 1))
    heavy = np.arange(400) < 200
    y = np.where(heavy, 1.0, -1.0) * x[:, 0] + 0.1 * generator.standard_normal(400)
    weights = np.where(heavy, 3, 1)
    at = np.array([[-1.0], [1.0]])
    linear = regressor(batch_size=100)
    weighted = linear.fit(x, y, sample_weight=weights).predict(at, return_std=True)
    repeated = linear.fit(np.repeat(x, weights, axis=0), np.repeat(y, weights)).predict(at, return_std=True)
    even = linear.fit(x, y).predict(at)
    np.testing.assert_allclose(weighted[0], [-0.5, 0.5], atol=0.1)
    np.testing.assert_allclose(weighted[0], repeated[0], atol=0.05)
    np.testing.assert_allclose(weighted[1], repeated[1], rtol=0.05)
    assert np.abs(even).max() < 0.2


@pytest.mark.statistical
def test_weights_of_classes_shift_their_probabilities() -> None:
    """Labels that the inputs say nothing about: their probabilities are the weighted shares."""
    labels = np.array(["a", "b"])[ODD]
    found = classifier(hidden_layer_sizes=()).fit(np.zeros((60, 1)), labels, sample_weight=1 + 3 * ODD)
    np.testing.assert_allclose(found.predict_proba(np.zeros((1, 1)))[0], [0.2, 0.8], atol=0.06)


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (np.r_[np.ones(59), -2.0], r"must not be negative, got -2.0 for row 59"),
        (np.zeros(60), "zero for all rows"),
        (np.full(60, np.nan), "sample_weight contains NaN"),
        (np.ones(59), r"shape \(60,\), got shape \(59,\)"),
        (np.ones((60, 2)), r"shape \(60,\), got shape \(60, 2\)"),
    ],
)
def test_weights_that_are_none(weights: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        brief().fit(X, Y, sample_weight=weights)


def test_one_class_only() -> None:
    with pytest.raises(DataError, match="at least two classes, found one class, a, in 60 rows"):
        classifier().fit(X, ["a"] * 60)
    with pytest.raises(DataError, match="one class, 1, in 30 rows of positive weight"):
        classifier().fit(X, ODD, sample_weight=ODD)
    with pytest.raises(ValueError, match="continuous"):
        classifier().fit(X, Y)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pd.DataFrame({"size": Y, "colour": "red", "shape": ["round"] * 60}), "'colour', 'shape' cannot be read"),
        (np.array([["1", "two"]] * 60), "but column 1 cannot be read as such .* OneHotEncoder"),
        (np.full((60, 9), "a"), "column 0, .*, column 4 and 4 more cannot"),
        (np.where(X.max() == X, np.nan, X), rf"column {PEAK[1]} has NaN in row {PEAK[0]}; impute"),
        (
            FRAME.assign(b=[np.inf] * 60, c=[0.0, np.nan, np.nan] * 20),
            "'b' has infinity in row 0, 'c' has NaN in row 1",
        ),
        (FRAME.assign(e=pd.array([1, 2, None] * 20, dtype="Int64")), "'e' has NaN in row 2"),
        (FRAME.assign(seen=DAY), "columns of numbers, but there are dates in 'seen'; give numbers"),
        (FRAME.assign(a=DAY.tz_localize("UTC"))[["a"]], "dates in 'a'"),
        (np.full((60, 2), np.datetime64("2020-01-01")), "dates in column 0, column 1"),
    ],
)
def test_tables_that_are_not_of_numbers(table: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        brief().fit(table, Y)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["u"] * 60, "BayesPruneRegressor: expected targets y that are numbers, but row 0 has none .*'u'"),
        (pd.Series([0.5] * 7 + ["u"] * 53), "row 7 has none .*'u'"),
        (pd.Series([DAY] * 60), "targets y that are numbers, but they are dates"),
    ],
)
def test_targets_that_are_no_numbers(targets: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        brief().fit(X, targets)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a", "b", None] * 20, "labels of one kind, found 'a' in row 0 and None in row 2; give all as text"),
        ([1, "b"] * 30, "found 1 in row 0 and 'b' in row 1"),
    ],
)
def test_labels_of_two_kinds(labels: list[Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        classifier().fit(X, np.array(labels, dtype=object))


def test_numbers_that_cannot_be_standardised() -> None:
    with pytest.raises(DataError, match=r"fit: column 'a' has numbers as large as 1e[+]200, whose squares overflow"):
        brief().fit(FRAME.assign(a=[1e200, 0.0] * 30), Y)
    with pytest.raises(DataError, match=r"fit: column 1 has numbers as large as 2e[+]160, .* at most 1e[+]150"):
        classifier().fit(np.where(np.arange(10) == 1, 2e160, X), ODD)
    with pytest.raises(DataError, match=r"fit: y has numbers as large as 1e[+]200"):
        brief().fit(X, np.where(ODD, -1e200, Y))


def test_text_that_is_numbers_is_read_as_such() -> None:
    found = brief().fit(X.astype(str), Y.astype(str))
    np.testing.assert_array_equal(found.predict(X), brief().fit(X, Y).predict(X))


def test_predict_before_fit() -> None:
    for call in (brief().predict, brief().predict_interval, classifier().predict, classifier().predict_proba):
        with pytest.raises(NotFittedError):
            call(X)
    with pytest.raises(NotFittedError):
        brief().get_support()


def test_another_number_of_columns_at_predict() -> None:
    with pytest.raises(ValueError, match="9 features, but BayesPruneRegressor is expecting 10"):
        brief().fit(X, Y).predict(X[:, :9])


def test_targets_of_two_dimensions() -> None:
    with pytest.warns(DataConversionWarning, match="column-vector"):
        found = brief().fit(X, Y[:, None])
    np.testing.assert_array_equal(found.predict(X), brief().fit(X, Y).predict(X))
    with pytest.raises(ValueError, match="1d array"):
        classifier().fit(X, np.stack((ODD, ODD), 1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_layer_sizes": 50}, "hidden_layer_sizes must hold"),
        ({"hidden_layer_sizes": (5, 0)}, r"got \(5, 0\)"),
        ({"weights": "flat"}, "unknown weights 'flat'"),
        ({"slab": ""}, "unknown weights ''"),
        ({"weights": "normal", "slab": "point"}, "they differ: 'normal' and 'point'"),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes must hold .* got None"),
        ({"hidden_layer_sizes": ("a",)}, "hidden_layer_sizes must hold"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": "a"}, "temperature must be positive and finite, got 'a'"),
        ({"prior_inclusion": 1.0}, r"prior_inclusion must be in \(0, 1\), got 1.0"),
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, at least 1, got 1.5"),
        ({"num_samples": -1}, "num_samples must be a whole number, at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0; or give 'auto'"),
        ({"batch_size": "all"}, "batch_size must be a whole number, at least 1, got 'all'; or give 'auto'"),
        ({"learning_rate": -1.0}, "learning_rate must be positive and finite, got -1.0"),
    ],
)
def test_parameters_that_cannot_work(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        regressor(**{"epochs": 3, "learning_rate": 0.3, **changes}).fit(X, Y)


def test_levels_and_samples_that_cannot_be() -> None:
    found = brief().fit(X, Y)
    with pytest.raises(ConfigError, match="level must be in"):
        found.predict_interval(X, 1.0)
    with pytest.raises(BayesPruneError, match="num_samples must be a whole number, at least 0, got -1"):
        found.set_params(num_samples=-1).predict(X)


def test_warnings_are_errors_here() -> None:
    """Constant columns, more inputs than rows and strings as labels give no warning."""
    with warnings.catch_warnings(record=True) as caught:
        classifier(epochs=2, learning_rate=0.3).fit(np.ones((60, 3)), three_classes(60)[1])
        brief(epochs=12).fit(X[:8], Y[:8])
    assert not caught


def test_columns_that_are_the_same_and_more_of_them_than_rows() -> None:
    wide = np.concatenate([X[:20]] * 4, axis=1)
    found = brief(groups=[[k, k + 10, k + 20, k + 30] for k in range(10)]).fit(wide, Y[:20])
    assert np.isfinite(found.predict(wide)).all() and len(set(found.inclusion_probabilities_)) <= 10
    apart = brief().fit(wide, Y[:20])
    assert np.isfinite(apart.predict(wide)).all() and np.isfinite(apart.inclusion_probabilities_).all()


def test_a_category_that_training_had_not_seen_is_no_category() -> None:
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore", sparse_output=False), brief())
    pipeline.fit(np.array([["red"], ["blue"]] * 30), Y)
    unseen = pipeline.predict(np.array([["green"]]))
    np.testing.assert_array_equal(unseen, pipeline[-1].predict(np.zeros((1, 2))))
