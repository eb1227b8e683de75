"""What skorch trains through `PruningClassifier` is what `fit` trains, to the last bit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import bayesprune as bp
from bayesprune.errors import DataError, GateError
from bayesprune.training import evaluate

pytest.importorskip("skorch")
from skorch.callbacks import EarlyStopping
from skorch.dataset import Dataset

from bayesprune.skorch import PruningClassifier

DIGITS = bp.data.load("digits", limit=400)
X, Y = (part.numpy() for part in DIGITS.train[:])
X = X.reshape(len(X), -1)
QUICK: dict[str, Any] = {"max_epochs": 6, "batch_size": 50, "verbose": 0}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def bayesian() -> bp.BayesianNet:
    net = bp.convert(network(), example_input=torch.zeros(2, 64))
    return bp.BayesianNet(net, num_data=len(X), prior=bp.distributions.FlatteningPrior(2.0))


def test_skorch_trains_as_fit_does() -> None:
    theirs, mine = bayesian(), bayesian()
    loader = torch.utils.data.DataLoader(Dataset(X, Y), batch_size=50, shuffle=True)
    torch.manual_seed(1)
    history = bp.fit(theirs, loader, epochs=6)
    net = PruningClassifier(mine, **QUICK, train_split=None, iterator_train__shuffle=True).initialize()
    torch.manual_seed(1)
    net.partial_fit(X, Y)
    assert net.module_ is mine
    assert [(row.loss, row.nll, row.params) for row in net.pruning_history_.rows] == [
        (row.loss, row.nll, row.params) for row in history.rows
    ]
    assert history.rows[-1].params < history.rows[0].params  # something went
    assert net.history[:, "params"] == [row.params for row in history.rows]
    assert net.history[-1]["train_loss"] == pytest.approx(history.rows[-1].nll, rel=1e-5)
    left = dict(theirs.net.named_parameters())
    assert all(torch.equal(left[name], value) for name, value in mine.net.named_parameters())


def test_a_plain_network_is_gated_trained_scored_and_left_small() -> None:
    settings = bp.training.Settings(lr=0.02)
    net = clone(PruningClassifier(network, **QUICK, settings=settings, iterator_train__shuffle=True))
    torch.manual_seed(0)
    net.fit(X, Y)
    assert list(bp.structures(net.module_.net, example_input=torch.zeros(2, 64))) != []
    small = bp.compact(net.module_)
    x = torch.as_tensor(X[:50])
    np.testing.assert_allclose(net.predict_proba(X[:50]), small(x).softmax(1).detach().numpy(), atol=1e-6)
    score = evaluate(net.module_, [(x, torch.as_tensor(Y[:50]))])
    assert np.mean(net.predict(X[:50]) == Y[:50]) == pytest.approx(score.accuracy)
    assert net.history[-1]["valid_acc"] > 0.6
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


class Units(nn.Module):
    """One hidden layer, whose width is searched for."""

    def __init__(self, hidden: int = 8):
        super().__init__()
        self.first, self.last = nn.Linear(64, hidden), nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def test_a_pipeline_is_searched_and_the_best_one_is_left_small() -> None:
    net = PruningClassifier(Units, **(QUICK | {"batch_size": 20}), train_split=None, iterator_train__shuffle=True)
    settings = bp.training.Settings(lr=0.02)
    grid = {"pruningclassifier__settings": [settings], "pruningclassifier__module__hidden": [2, 24]}
    torch.manual_seed(0)
    search = GridSearchCV(make_pipeline(StandardScaler(), net), grid, cv=2).fit(X, Y)
    assert search.best_params_ == {"pruningclassifier__settings": settings, "pruningclassifier__module__hidden": 24}
    worse, better = search.cv_results_["mean_test_score"]
    assert worse < 0.6 < 0.7 < better  # two units cannot tell ten digits
    scaler, best = search.best_estimator_
    small = bp.compact(best.module_)
    assert small.first.out_features <= 24 and not [m for m in small.modules() if isinstance(m, bp.layers.Gate)]
    given = small(torch.from_numpy(scaler.transform(X))).argmax(1).numpy()
    np.testing.assert_array_equal(given, search.predict(X))


def test_a_run_that_is_stopped_early_leaves_a_network_that_predicts() -> None:
    stop = EarlyStopping("train_loss", patience=1, threshold=100.0)
    net = PruningClassifier(network, **QUICK, callbacks=[("stop", stop)])
    net.fit(X, Y)
    assert len(net.pruning_history_.rows) == len(net.history) == 2
    assert net.predict(X[:5]).shape == (5,) and net._run is None


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(DataError, match=r"first training batch: .* labels run from 5 to 14"):
        PruningClassifier(bayesian(), **QUICK, train_split=None).fit(X, Y + 5)
    with pytest.raises(DataError, match=r"whole numbers from 0, got text or objects; .*LabelEncoder"):
        PruningClassifier(network, **QUICK).fit(X, Y.astype(str))
    with pytest.raises(GateError, match="no place for a gate"):
        PruningClassifier(nn.Sequential(nn.Linear(64, 10)), **QUICK).fit(X, Y)
