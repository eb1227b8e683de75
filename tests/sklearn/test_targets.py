"""Several targets in each row, and classes that count differently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from bayesprune.errors import ConfigError, DataError
from bayesprune.sklearn import BayesPruneRegressor
from tests.sklearn.problems import RELEVANT, brief, classifier, linear_table, regressor, three_classes


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    """Two targets in units of their own: the second is the negative of the first in thousands, with more noise."""
    X, y = linear_table(300)
    return X, np.stack((y, 5000 - 1000 * y + 1500 * np.random.default_rng(1).standard_normal(300)), 1)


@pytest.fixture(scope="module")
def both(table: tuple[np.ndarray, np.ndarray]) -> BayesPruneRegressor:
    return regressor().fit(*table)


def test_each_target_is_predicted_in_its_own_units_with_its_own_noise(table: Any, both: BayesPruneRegressor) -> None:
    X, Y = table
    mean, deviation = both.predict(X, return_std=True)
    assert mean.shape == deviation.shape == Y.shape
    assert np.median(deviation, axis=0) == pytest.approx([0.5, 1500 * np.hypot(1, 1 / 3)], rel=0.15)  # by construction
    signal = X[:, RELEVANT] @ [1.0, -0.7, 0.5]
    truth = np.stack((signal, 5000 - 1000 * signal), 1)
    least_squares = X @ np.linalg.lstsq(X, Y - Y.mean(0), rcond=None)[0] + Y.mean(0)
    errors = [np.sqrt(((found - truth) ** 2).mean(0)) for found in (mean, least_squares)]
    assert (errors[0] < 0.75 * errors[1]).all()  # inputs that say nothing are left out, for both targets alike
    assert both.score(X, Y) > 0.6
    np.testing.assert_allclose(both.compact_(torch.tensor(X, dtype=torch.float32)).detach(), mean, rtol=0.05, atol=300)


def test_intervals_of_each_target(table: Any, both: BayesPruneRegressor) -> None:
    X, Y = table
    interval, mean = both.predict_interval(X, 0.9), both.predict(X)
    assert interval.shape == (300, 2, 2)
    assert ((interval[..., 0] < mean) & (mean < interval[..., 1])).all()
    inside = ((interval[..., 0] < Y) & (interval[..., 1] > Y)).mean(0)
    assert (np.abs(inside - 0.9) < 0.06).all()
    one = brief().fit(X, Y[:, 0])
    assert one.predict_interval(X).shape == (300, 2) and one.predict(X).shape == (300,)


def test_weights_of_rows_for_two_targets(table: Any) -> None:
    X, Y = table
    odd = np.arange(300) % 2
    weighted = brief().fit(X, Y, sample_weight=odd).predict(X)
    np.testing.assert_array_equal(weighted, brief().fit(X[odd == 1], Y[odd == 1]).predict(X))


@pytest.mark.parametrize("class_weight", ["balanced", {"north": 3.0, "south": 0.5}])
@pytest.mark.parametrize("weights", [None, np.arange(90) % 3])
def test_a_weight_of_a_class_is_one_of_its_rows(class_weight: Any, weights: Any) -> None:
    X, labels = three_classes(90)
    rows = compute_sample_weight(class_weight, labels if weights is None else labels[weights > 0])
    full = np.zeros(90)
    full[slice(None) if weights is None else weights > 0] = rows
    by_class = classifier(epochs=3, learning_rate=0.3, class_weight=class_weight).fit(X, labels, sample_weight=weights)
    by_row = classifier(epochs=3, learning_rate=0.3).fit(
        X, labels, sample_weight=full if weights is None else full * weights
    )
    np.testing.assert_allclose(by_class.predict_proba(X), by_row.predict_proba(X), rtol=1e-5)  # weights are rounded
    plain = classifier(epochs=3, learning_rate=0.3).fit(X, labels, sample_weight=weights)
    assert np.abs(plain.predict_proba(X) - by_class.predict_proba(X)).max() > 1e-3


def test_balanced_classes_of_unequal_numbers_are_equally_probable() -> None:
    labels = np.array(["many", "few"])[(np.arange(120) < 20).astype(int)]
    how = {"hidden_layer_sizes": (), "epochs": 30}
    found = classifier(class_weight="balanced", **how).fit(np.zeros((120, 1)), labels)
    np.testing.assert_allclose(found.predict_proba(np.zeros((1, 1)))[0], [0.5, 0.5], atol=0.03)


@pytest.mark.parametrize(
    ("class_weight", "says"),
    [
        ("equal", "balanced"),
        ({"north": -1.0}, "class_weight must be finite and not negative, got -1.0 for class .*north"),
        ({"north": np.nan}, "got nan for class .*north"),
        ({"north": "much"}, "class_weight must be 'balanced', a dict .*, got {'north': 'much'}"),
        ([1.0, 2.0, 3.0], r"class_weight must be 'balanced', a dict .*, got \[1.0, 2.0, 3.0\]"),
        (dict.fromkeys(("north", "south", "west"), 0.0), "zero for all rows"),
        ({"north": 1, "south": 0, "west": 0}, "at least two classes, found one class, north"),
    ],
)
def test_weights_of_classes_that_cannot_be(class_weight: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        classifier(class_weight=class_weight).fit(*three_classes(60))


# columns that go together, and other likelihoods ---------------------------------------------------------------------


def test_columns_of_a_group_have_one_inclusion_probability() -> None:
    X, y = linear_table(60)
    frame = pd.DataFrame(X, columns=list("abcdefghij")).assign(k=1.0)
    found = brief(groups=[["b", "e"], [0, 9]]).fit(frame, y)
    p = found.inclusion_probabilities_
    assert p[1] == p[4] and p[0] == p[9] and p[10] == 0 and len(set(p.tolist())) == 9
    small = found.compact_(torch.tensor(frame.to_numpy(), dtype=torch.float32)).detach().double().numpy()[:, 0]
    np.testing.assert_allclose(small, found.set_params(num_samples=0).predict(frame), atol=1e-4)
    refused = {
        "groups: 'z' is no column$": [["b", "z"]],
        "from -11 to 10": [[0, 11]],
        "one group only": [[0], [0, 1]],
        "an index must be a whole number.*True": [[0, True]],
        "got slice": [[slice(0, 2)]],
        "each group must be a list of columns, .* got 3": 3,
        r"each group must be a list of columns, .* got \['b', 'e'\]": ["b", "e"],
        "each group must .* got 'be'": "be",
    }
    for says, wrong in refused.items():
        with pytest.raises(DataError, match=says):
            brief(groups=wrong).fit(frame, y)
    with pytest.raises(DataError, match=r"'size' is no column \(did you mean 'Size1'\?\)"):
        brief(groups=[["size"]]).fit(frame.rename(columns={"a": "Size1"}), y)
    with pytest.raises(DataError, match="'b' is no column; the columns have no names, so give their indices"):
        brief(groups=[["b"]]).fit(X, y)


def test_constant_columns_are_not_read_in_groups_either() -> None:
    X, y = linear_table(60)
    X[:, [2, 5]] = 4.0, 1.7e18
    found = brief(groups=[[0, 2], [5]]).fit(X, y)
    assert found.inclusion_probabilities_[[2, 5]].tolist() == [0, 0] < [found.inclusion_probabilities_[0]]
    later = X.copy()
    later[:, [2, 5]] = -1.0, 3.0
    np.testing.assert_allclose(found.predict(later), found.predict(X), rtol=1e-9)
    small = [found.compact_(torch.tensor(each, dtype=torch.float32)).detach() for each in (X, later)]
    torch.testing.assert_close(*small, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
@pytest.mark.parametrize("y", [np.full(20, -3.0), np.linspace(-1.0, 0.5, 20)])
def test_targets_that_are_no_counts_are_refused(likelihood: str, y: NDArray) -> None:
    X, _ = linear_table(20)
    with pytest.raises(DataError, match=f"^{likelihood} likelihood: targets must be counts 0, 1, 2 and so on, found -"):
        brief(likelihood=likelihood).fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize(("likelihood", "off"), [("student_t", 0.05), ("poisson", 0.01), ("negative_binomial", 0.2)])
def test_targets_without_variance_are_predicted(likelihood: str, off: float) -> None:
    X = np.random.default_rng(0).standard_normal((40, 10))
    found = BayesPruneRegressor(likelihood=likelihood, random_state=0).fit(X, np.zeros(40))
    assert np.abs(found.predict(X)).max() < off
    low, high = found.predict_interval(X, 0.5).T
    assert ((low <= 0) & (high >= 0)).all()


@pytest.mark.parametrize("likelihood", ["student_t", "heteroscedastic", "poisson", "negative_binomial"])
def test_every_likelihood_predicts_in_the_units_of_its_targets(likelihood: str) -> None:
    X, y = linear_table(60)
    y = np.round(np.exp(3 + 0.2 * y)) if likelihood in ("poisson", "negative_binomial") else 1000 + 100 * y
    found = brief(likelihood=likelihood, epochs=15, learning_rate=0.06).fit(X, y)
    low, high = found.predict_interval(X, 0.9).T
    assert ((low <= y) & (y <= high)).mean() > 0.75
    assert (found.predict(X, return_std=True)[1] > 0).all()
    assert 0.6 * y.mean() < np.median(found.set_params(num_samples=0).predict(X)) < 1.6 * y.mean()
    with pytest.raises(ConfigError, match=r"likelihood must be one of learned_gaussian, student_t, .*, got 'cauchy'"):
        brief(likelihood="cauchy").fit(X, y)


def test_labels_in_an_order() -> None:
    X, y = linear_table(120)
    grades = np.array(["a", "b", "c"])[np.digitize(y, [-0.7, 0.7])]
    found = classifier(hidden_layer_sizes=(), epochs=25, ordered=True).fit(X, grades)
    probabilities = found.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-9)
    assert found.score(X, grades) > 0.6
    order = probabilities.argsort(1)[:, 0]
    assert (order[probabilities.argmax(1) == 0] == 2).mean() > 0.9
    with pytest.raises(ConfigError, match="ordered must be True or False"):
        classifier(ordered="yes").fit(X, grades)
