"""What the estimators find and predict."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import bayesprune as bp
from bayesprune.pruning import export_onnx
from bayesprune.selection import enumerate_models, mean_field
from bayesprune.sklearn import BayesPruneClassifier, BayesPruneRegressor, training
from bayesprune.sklearn.network import gated_mlp
from bayesprune.sklearn.training import SLAB_SCALE, chosen_batch_size, chosen_epochs, learns_slab
from bayesprune.training import evidence_bound, fit_best
from tests.sklearn.problems import (
    NEW,
    NOISE,
    RELEVANT,
    TABLE,
    brief,
    classifier,
    linear_table,
    plain,
    regressor,
    three_classes,
)

# regression ----------------------------------------------------------------------------------------------------------


def test_inclusion_probabilities_are_those_of_the_exact_posterior(fitted: BayesPruneRegressor) -> None:
    """Of all 1024 linear models, for the noise scale that was learned: within 0.05, the steps' own noise included."""
    X, y = TABLE
    scale = fitted.network_.likelihood.noise_scale.detach().item() / y.std()
    x, t = torch.tensor((X - X.mean(0)) / X.std(0)), torch.tensor((y - y.mean()) / y.std())
    exact = enumerate_models(x, t, inclusion=0.5, slab_scale=SLAB_SCALE, noise_scale=scale).inclusion.numpy()
    assert exact[RELEVANT].min() > 0.99 and np.delete(exact, RELEVANT).max() < 0.5
    np.testing.assert_allclose(fitted.inclusion_probabilities_, exact, atol=0.05)
    assert fitted.get_support().nonzero()[0].tolist() == fitted.get_support(indices=True).tolist() == RELEVANT


def test_the_slab_is_learned_where_a_linear_model_has_many_columns_and_few_rows() -> None:
    """Inclusion is that of the mean field at the noise and the slab that were learned, by coordinate ascent."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((90, 24))
    y = X[:, :12] @ (0.3 * generator.standard_normal(12)) + generator.standard_normal(90)
    found = regressor(epochs=120, batch_size=45, learning_rate=0.04).fit(X, y)
    slab, noise = found.network_.weights_posterior.scales[0], found.network_.likelihood.noise_scale.detach()
    assert 0.05 < slab < 0.5
    x, t = torch.tensor((X - X.mean(0)) / X.std(0)), torch.tensor((y - y.mean()) / y.std())
    exact = mean_field(x, t, inclusion=0.5, slab_scale=float(slab), noise_scale=float(noise / y.std()))
    assert np.abs(found.inclusion_probabilities_ - exact.inclusion.numpy()).mean() < 0.05


@pytest.mark.parametrize(("rows", "columns", "learned"), [(99, 20, True), (100, 20, False), (40, 19, False)])
def test_when_rows_are_few(rows: int, columns: int, learned: bool) -> None:
    assert learns_slab(rows, columns) is learned


@pytest.mark.statistical
def test_the_standard_deviation_includes_the_noise(fitted: BayesPruneRegressor) -> None:
    """Of 2000 new targets 95 % ± 3 % lie within 1.96 standard deviations; 120 rows tell the noise to 7 %."""
    X, y = NEW
    mean, std = fitted.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, fitted.predict(X))
    assert 0.92 < (np.abs(y - mean) < 1.96 * std).mean() < 0.98
    assert std.min() > 0.8 * NOISE and np.median(std) < 1.2 * NOISE
    assert fitted.score(X, y) > 0.95 * (1 - NOISE**2 / y.var())


def test_intervals_are_nested_around_the_mean(fitted: BayesPruneRegressor) -> None:
    X, y = NEW
    mean, std = fitted.predict(X, return_std=True)
    narrow, wide = fitted.predict_interval(X, 0.5), fitted.predict_interval(X)
    bounds = np.stack((wide[:, 0], narrow[:, 0], mean, narrow[:, 1], wide[:, 1]))
    assert (np.diff(bounds, axis=0) > 0).all()
    np.testing.assert_allclose(wide, np.stack((mean - 1.96 * std, mean + 1.96 * std), 1), atol=0.15 * NOISE)
    assert 0.44 < ((narrow[:, 0] < y) & (y < narrow[:, 1])).mean() < 0.56


def test_units_of_measurement_do_not_matter() -> None:
    X, y = linear_table(60)
    scale, shift = 10.0 ** np.arange(-4, 6), np.arange(10) * 3.0
    plain_units, others = brief().fit(X, y), brief().fit(X * scale + shift, 1e3 * y + 7)
    mean, std = plain_units.predict(X, return_std=True)
    mean_there, std_there = others.predict(X * scale + shift, return_std=True)
    np.testing.assert_allclose(mean_there, 1e3 * mean + 7, rtol=1e-3, atol=1e-3 * 1e3)
    np.testing.assert_allclose(std_there, 1e3 * std, rtol=1e-3)
    np.testing.assert_allclose(others.inclusion_probabilities_, plain_units.inclusion_probabilities_, atol=1e-3)


def test_the_sessions_default_format_does_not_matter() -> None:
    """The same seed gives the same estimator, bit for bit."""
    before, (X, y) = torch.get_default_dtype(), three_classes(60)
    found = classifier(epochs=3, learning_rate=0.3, random_state=0).fit(X, y)
    torch.set_default_dtype(torch.float64)
    try:
        other = classifier(epochs=3, learning_rate=0.3, random_state=0).fit(X, y)
        np.testing.assert_array_equal(other.predict_proba(X), found.predict_proba(X))
    finally:
        torch.set_default_dtype(before)


def test_more_inputs_than_rows() -> None:
    X, y = linear_table(40, columns=100)
    sparse = regressor(prior_inclusion=0.03, epochs=150, batch_size="auto", learning_rate=0.01).fit(X, y)
    assert set(sparse.get_support(indices=True)) >= set(RELEVANT[:2])
    assert sparse.get_support().sum() <= 4


@pytest.mark.parametrize(
    ("rows", "columns", "theta"), [(442, 10, 0.9), (100, 50, 0.9), (100, 200, 0.25), (30, 1000, 0.015)]
)
def test_no_more_inputs_are_on_at_the_start_than_half_the_rows(rows: int, columns: int, theta: float) -> None:
    net = gated_mlp(rows, (4,), 1, np.zeros(columns, bool))
    torch.testing.assert_close(net.inputs.theta.detach(), torch.full((columns,), theta))
    assert float(net.hidden1.gate.theta.detach()[0]) == pytest.approx(0.9)


def test_a_constant_column_is_never_included_nor_read() -> None:
    X, y = linear_table(60)
    X[:, [2, 5]] = 4.0, -1e6
    found = brief(prior_inclusion=0.9).fit(X, y)
    assert found.inclusion_probabilities_[[2, 5]].tolist() == [0, 0]
    assert np.delete(found.inclusion_probabilities_, [2, 5]).min() > 0
    before = found.predict(X)
    X[:, [2, 5]] = 1.0, 3.0
    np.testing.assert_array_equal(found.predict(X), before)
    np.testing.assert_allclose(plain(found, X)[:5, 0], plain(found, np.where(X == 3.0, 8.0, X))[:5, 0], rtol=1e-6)


def test_constant_targets_and_inputs_are_predicted() -> None:
    X, _ = linear_table(40)
    assert np.abs(brief(epochs=60).fit(X, np.full(40, 5.0)).predict(X) - 5.0).max() < 0.5
    nothing = brief(epochs=60).fit(np.ones((40, 2)), X[:, 0])
    assert nothing.inclusion_probabilities_.tolist() == [0, 0]
    np.testing.assert_allclose(nothing.predict(np.ones((2, 2))), X[:, 0].mean(), atol=0.2)
    np.testing.assert_allclose(nothing.predict(np.zeros((2, 2))), nothing.predict(np.ones((2, 2))), rtol=1e-9)


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(20, 16, 1000), (50, 16, 500), (150, 16, 200), (500, 25, 150), (10**5, 512, 150)]
)
def test_small_tables_get_two_thousand_steps(rows: int, batch: int, epochs: int) -> None:
    assert chosen_batch_size(rows) == batch and chosen_epochs(rows, batch) == epochs


def test_of_several_starts_the_one_with_the_highest_bound_is_kept(fitted: BayesPruneRegressor) -> None:
    X, y = linear_table(60)
    found = brief(restarts=3).fit(X, y)
    bounds = found.evidence_bounds_
    assert bounds.shape == (3,) and len(set(bounds)) == 3
    kept = evidence_bound(found.network_, [(X, y[:, None])], 256, temperature=found.temperature)
    assert abs(kept.nats - bounds.max()) < 5 * kept.error + 1 < bounds.max() - bounds.min()
    thousand = brief(restarts=3).fit(X, 1000 * y).evidence_bounds_
    np.testing.assert_allclose(thousand, bounds - len(y) * np.log(1000), rtol=1e-4)
    assert fitted.evidence_bounds_.shape == (0,)  # nothing was compared
    assert classifier(restarts=2, epochs=2, learning_rate=0.3).fit(*three_classes(40)).evidence_bounds_.max() < 0


def test_every_second_start_begins_where_the_data_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise is kept at a fifth while the weights follow the data, and is learned after."""
    X, y = linear_table(60)
    begun: list[tuple[float, float, bool]] = []

    def noted(nets: Any, loader: Any, **how: Any) -> Any:
        x, t = torch.tensor((X - X.mean(0)) / X.std(0)).float(), torch.tensor((y - y.mean()) / y.std())[:, None]
        for net in nets:
            off = float((net.eval().net(x) - t).detach().square().mean())
            begun.append((float(net.likelihood.learned_noise), off, net.likelihood.log_scale.requires_grad))
            net.train()
        return fit_best(nets, loader, **how)

    monkeypatch.setattr(training, "fit_best", noted)
    found = brief(hidden_layer_sizes=(), restarts=3, temperature=1.0, epochs=20, learning_rate=0.1).fit(X, y)
    assert [(round(noise, 6), learned) for noise, _, learned in begun] == [(1, True), (0.2, True), (1, True)]
    assert begun[1][1] < 0.3 < min(begun[0][1], begun[2][1])
    assert found.evidence_bounds_.shape == (3,)


def test_a_run_that_is_too_short_warns_once_in_the_words_of_the_estimator() -> None:
    X, y = linear_table(60)
    says = (
        r"fit: epochs=2 \(8 steps\) at learning_rate=0\.01 .* give epochs=(\d+) or more, or learning_rate=0\.\d or more"
    )
    with pytest.warns(ConvergenceWarning, match=says) as caught:
        short = brief(epochs=2, learning_rate=0.01, restarts=2).fit(X, y)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert len(set(short.inclusion_probabilities_)) == 1
    epochs = int(re.search(says, str(caught[0].message))[1])  # type: ignore[index]
    for enough in ({"learning_rate": 0.5}, {"learning_rate": 0.01, "epochs": epochs},
                   {"learning_rate": 0.01, "weights": "point"}):  # fmt: skip
        brief(**{"epochs": 2, **enough}).fit(X, y)  # without a warning


def test_tables_that_are_read_only_are_predicted(fitted: BayesPruneRegressor) -> None:
    X, _ = linear_table(3)
    expected = fitted.predict(X)
    X.setflags(write=False)
    torch.set_warn_always(True)  # else once a process
    try:
        np.testing.assert_array_equal(fitted.predict(X), expected)
    finally:
        torch.set_warn_always(False)


# classes -------------------------------------------------------------------------------------------------------------


def test_classes_are_told_apart(sorter: BayesPruneClassifier) -> None:
    X, y = three_classes(1000, seed=1)
    assert sorter.classes_.tolist() == ["north", "south", "west"]
    probabilities = sorter.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(sorter.predict(X), sorter.classes_[probabilities.argmax(1)])
    assert sorter.score(X, y) > 0.93
    assert sorter.inclusion_probabilities_[:2].min() > 0.99 and sorter.inclusion_probabilities_[2:].max() < 0.5


def test_two_classes_with_labels_of_any_kind() -> None:
    X, y = three_classes(200)
    answers = {}
    for labels in ([False, True], [-1, 7], ["no", "yes"]):
        found = classifier(epochs=3, learning_rate=0.3).fit(X, np.array(labels)[(y == "west").astype(int)])
        assert found.classes_.tolist() == labels
        answers[str(labels)] = found.predict_proba(X)
    first, *others = answers.values()
    for other in others:
        np.testing.assert_array_equal(other, first)


# the plain network ---------------------------------------------------------------------------------------------------


def test_the_plain_network_predicts_in_the_units_of_the_table(fitted: BayesPruneRegressor, tmp_path: Path) -> None:
    X, _ = NEW
    mode = copy.deepcopy(fitted).set_params(num_samples=0).predict(X)
    np.testing.assert_allclose(plain(fitted, X)[:, 0], mode, atol=1e-4)
    bp.save(fitted.compact_, tmp_path / "small.safetensors")
    x = torch.tensor(X[:10], dtype=torch.float32)
    torch.testing.assert_close(bp.load(tmp_path / "small.safetensors")(x), fitted.compact_(x))
    kept = bp.cost(fitted.compact_, x[:1])
    assert kept.params < bp.cost(fitted.network_, x[:1].double()).params
    assert {type(part).__module__.split(".")[0] for part in fitted.compact_.modules()} == {"torch"}


def test_the_plain_network_gives_logits(sorter: BayesPruneClassifier) -> None:
    X, _ = three_classes(100, seed=2)
    mode = copy.deepcopy(sorter).set_params(num_samples=0).predict_proba(X)
    np.testing.assert_allclose(torch.tensor(plain(sorter, X)).softmax(1).numpy(), mode, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["heteroscedastic", "negative_binomial", "groups", "two targets", "ordered"])
def test_the_plain_network_is_exported_in_the_units_of_the_table(kind: str, tmp_path: Path) -> None:
    """Columns of sizes from 1e-3 to 1e6, one of them constant: what ONNX Runtime gives is the mode's prediction.

    No mean is more than nine standard deviations from 0, which float32 takes off to some 1e-6 of one.
    """
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    X, y = linear_table(60)
    y, X = 1000 + 50 * y, (X + np.arange(10)) * 10.0 ** np.arange(-3, 7)
    X[:, 4] = 7.0
    settings: dict[str, Any] = {"num_samples": 0, "epochs": 15, "learning_rate": 0.06}
    if kind == "ordered":
        found = classifier(ordered=True, **settings).fit(X, np.digitize(y, [980, 1020]))
    elif kind == "groups":
        found = brief(groups=[[0, 1], [5, 4]], **settings).fit(X, y)
    elif kind == "two targets":
        found = brief(**settings).fit(X, np.stack([y, y / -1e4], 1))
    else:
        found = brief(likelihood=kind, **settings).fit(X, np.round(y))
    x, path = torch.tensor(X, dtype=torch.float32), tmp_path / "small.onnx"
    export_onnx(found.compact_, x[:2], path)
    outputs = runtime.InferenceSession(path).run(None, {"input": x.numpy()})[0]
    given = found.network_.likelihood.mean(torch.from_numpy(outputs).double()).detach().numpy()
    expected = found.predict_proba(X) if kind == "ordered" else found.predict(X).reshape(given.shape)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
