"""Scores of a network by hand."""

from __future__ import annotations

import math

import pytest
from torch import nn

import bayesprune as bp
from bayesprune.errors import DataError
from bayesprune.infer import BayesianNet
from bayesprune.networks import resmlp
from bayesprune.pruning import compact
from bayesprune.training import Score, Settings, evaluate, fit
from tests.training.problems import (
    EXAMPLES,
    REST,
    Batches,
    bayesian,
    examples,
    set_theta,
    units,
)


def test_a_gaussian_likelihood_has_no_accuracy() -> None:
    x, y = examples()
    net = BayesianNet(nn.Sequential(bp.layers.Gate(8), nn.Linear(8, 1)), "gaussian", num_data=EXAMPLES)
    loader = Batches(x, y[:, None].float())
    row = fit(net, loader, epochs=1, val_loader=loader, settings=Settings(schedule=REST)).rows[0]
    assert math.isnan(row.val_accuracy) and math.isfinite(row.val_nll)


@pytest.mark.parametrize("sizes", [(12, 12), (5, 19), (1, 23)])
def test_evaluate_by_hand(sizes: tuple[int, int]) -> None:
    """Weighted by examples, whatever the batches; the mode of the gates; training mode is restored."""
    x, y = examples(24)
    net = bayesian(units())
    set_theta(net, g0=[0.6, 0.4, 0.9, 0.5, 1, 0, 1, 1], g1=[1, 1, 0.1, 1, 1, 0.51])
    logits = net(x)
    expected = Score(
        float(nn.functional.cross_entropy(logits, y).detach()), float((logits.argmax(1) == y).float().mean())
    )
    loader = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    for model in (net, net.net, compact(net)):
        model.train()
        score = evaluate(model, loader)
        assert model.training
        assert score.nll == pytest.approx(expected.nll, rel=1e-5) and score.accuracy == pytest.approx(expected.accuracy)


def test_evaluate_needs_an_example() -> None:
    net = resmlp((8,), 2, depth=1, width=4).eval()
    with pytest.raises(DataError, match="the loader gave no batch"):
        evaluate(net, [])
    assert not net.training
