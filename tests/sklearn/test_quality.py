"""How well the estimators do as they come, on real tables."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bayesprune.selection import friedman_regression
from bayesprune.sklearn import BayesPruneClassifier, BayesPruneRegressor
from tests.sklearn.problems import regressor

pytestmark = pytest.mark.slow


def test_iris() -> None:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    assert cross_val_score(BayesPruneClassifier(random_state=0), *load_iris(return_X_y=True), cv=folds).mean() >= 0.93


def test_diabetes_is_predicted_as_well_as_by_ridge_regression() -> None:
    folds = KFold(5, shuffle=True, random_state=0)
    table = load_diabetes(return_X_y=True)
    ridge = cross_val_score(make_pipeline(StandardScaler(), RidgeCV()), *table, cv=folds).mean()
    assert cross_val_score(BayesPruneRegressor(random_state=0), *table, cv=folds).mean() > ridge - 0.02


def test_the_inputs_of_a_curved_function_are_found() -> None:
    """Friedman's: five of twelve inputs, one by its square, two by their product."""
    problem = friedman_regression(200, 12, noise_scale=1.0, seed=0)
    found = BayesPruneRegressor(random_state=0).fit(problem.x.numpy(), problem.y.numpy())
    np.testing.assert_array_equal(found.get_support(), problem.support.numpy())
    again = friedman_regression(500, 12, noise_scale=1.0, seed=1)
    assert found.score(again.x.numpy(), again.y.numpy()) > 0.8


def test_a_start_with_little_noise_finds_what_acts_by_a_curve_alone() -> None:
    """Friedman's five among fifty columns, 300 rows: noise learned from the first step explains the square away."""
    problem = friedman_regression(300, 50, seed=0)
    how = {"temperature": 1.0, "prior_inclusion": 0.1, "restarts": 2, "epochs": 120}
    found = BayesPruneRegressor((20,), random_state=0, **how).fit(problem.x.numpy(), problem.y.numpy())
    np.testing.assert_array_equal(found.get_support(), problem.support.numpy())
    assert found.evidence_bounds_[1] > found.evidence_bounds_[0] + 20


def test_at_temperature_one_a_curve_is_fitted_and_its_only_input_kept() -> None:
    """y = sin 2x with noise of 0.1, 150 rows and 50 units, of which few stay."""
    generator = np.random.default_rng(0)
    X, new = generator.uniform(-2, 2, (150, 1)), np.linspace(-2, 2, 400)[:, None]
    y = np.sin(2 * X[:, 0]) + 0.1 * generator.standard_normal(150)
    found = BayesPruneRegressor(temperature=1.0, random_state=0).fit(X, y)
    assert found.inclusion_probabilities_[0] >= 0.99
    assert found.score(new, np.sin(2 * new[:, 0])) >= 0.9
    assert found.network_.num_gates <= 1 + 15


def test_noise_among_many_weak_effects_in_few_rows() -> None:
    """128 columns, 64 weak effects, 250 rows: the noise is that of the rows within 5 %, intervals hold within 3 points.

    A slab of scale 1 takes weak effects for none and calls their variance noise.
    """
    generator = np.random.default_rng(0)
    effects = 0.15 * np.random.default_rng([0, 1]).standard_normal(64)
    X, noise = generator.standard_normal((250, 128)), generator.standard_normal(250)
    found = regressor(epochs=250, batch_size=125, learning_rate=0.02).fit(X, X[:, :64] @ effects + noise)
    assert float(found.network_.likelihood.noise_scale.detach()) == pytest.approx(noise.std(), rel=0.05)
    Z = generator.standard_normal((2000, 128))
    y = Z[:, :64] @ effects + generator.standard_normal(2000)
    for level in (0.5, 0.8, 0.95):
        low, high = found.predict_interval(Z, level).T
        assert ((low < y) & (y < high)).mean() == pytest.approx(level, abs=0.03)


def test_intervals_hold_where_the_noise_has_heavy_tails() -> None:
    """Student's noise of five degrees of freedom. A normal law of the same variance holds 57.6 % in its middle half."""
    generator = np.random.default_rng(0)
    X, Z = generator.standard_normal((500, 3)), generator.standard_normal((2000, 3))
    weights = np.array([1.0, -1.0, 0.5])
    y, new = X @ weights + generator.standard_t(5, 500), Z @ weights + generator.standard_t(5, 2000)
    found = regressor(likelihood="student_t", epochs=250, batch_size=125, learning_rate=0.02).fit(X, y)
    for level in (0.5, 0.8, 0.95):
        low, high = found.predict_interval(Z, level).T
        assert ((low < new) & (new < high)).mean() == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("units", [50, 200])
def test_ten_times_too_many_units_do_not_stay(units: int) -> None:
    """A teacher of five units, from starts of 50 and 200: at most ten stay, and both predict what the teacher does."""
    generator, law = np.random.default_rng(0), np.random.default_rng([0, 1])
    inner, outer = law.standard_normal((10, 5)), law.choice([-1.0, 1.0], 5)
    X, noise = generator.standard_normal((500, 10)), 0.1 * generator.standard_normal(500)
    new = generator.standard_normal((2000, 10))
    truth, expected = (np.maximum(rows @ inner / 3, 0) @ outer for rows in (X, new))
    how = {"epochs": 250, "batch_size": 125, "learning_rate": 0.02}
    found = regressor(hidden_layer_sizes=(units,), **how).fit(X, truth + noise)
    assert found.get_support().all()
    assert found.network_.num_gates - 10 <= 10
    assert np.sqrt(((found.predict(new) - expected) ** 2).mean()) < 0.06  # of a standard deviation of 1.2
