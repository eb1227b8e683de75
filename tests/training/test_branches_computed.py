"""Branches that are off are not computed: how many are."""

from __future__ import annotations

import itertools
import math

import pytest

from bayesprune.training import Schedule, Settings, fit
from tests.training.problems import (
    REST,
    Batches,
    bayesian,
    branches,
    examples,
    set_theta,
    units,
)

SETTLE = {"sample_from": 0.0, "settle_from": 0.0, "fine_tune_from": 1.0, "travel": 1e-12}


@pytest.mark.parametrize("estimator", ["auto", "paired", "second_order"])
def test_all_branches_may_go_in_the_middle_of_sampling(estimator: str) -> None:
    """Prices far above what the data offer, and sampling to the end: training goes on without a gate."""
    net = bayesian(branches(), log_gamma=5000.0)
    schedule = {"sample_from": 0.0, "settle_from": 1.0, "fine_tune_from": 1.0, "travel": 50.0}
    settings = Settings(estimator=estimator, every=1, schedule=schedule)
    history = fit(net, Batches(*examples()), epochs=3, val_loader=Batches(*examples()), settings=settings)
    assert net.num_gates == 0 and len(history.removals) == 4
    assert history.rows[-1].gates_converged == 1.0 and math.isfinite(history.rows[-1].loss)
    again = fit(net, Batches(*examples()), epochs=1)
    assert again.rows[-1].gates_left == 0 and again.rows[-1].gates_converged == 1.0


@pytest.mark.parametrize(("thetas", "computed"), [([1, 1, 1, 1], 1.0), ([1, 0, 0, 1], 0.5), ([0, 0, 0, 0], 0.0)])
def test_branches_computed_while_theta_rests(thetas: list[float], computed: float) -> None:
    net = bayesian(branches())
    set_theta(net, **{f"g{k + 1}": [theta] for k, theta in enumerate(thetas)})
    loader = Batches(*examples())
    assert fit(net, loader, epochs=2, val_loader=loader, settings=Settings(schedule=REST)).branches_computed == computed


@pytest.mark.parametrize("thetas", [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]])
def test_branches_computed_while_settling(thetas: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each interval of 3 steps, 1 is measured: one pass at θ, and one for each flip from its branch on."""
    monkeypatch.setattr("bayesprune.methods.svi.exact.CLEAR", float("inf"))  # no sign is ever clear
    net = bayesian(branches())
    set_theta(net, **{f"g{k + 1}": [theta] for k, theta in enumerate(thetas)})
    settings = Settings(schedule={**SETTLE, "exact_share": 10.0, "checks_per_epoch": 4})
    history = fit(net, Batches(*examples()), epochs=2, prune=False, settings=settings)
    on, steps, measured = sum(thetas), 24, 8
    flips = sum(sum(thetas[k + 1 :]) + (1 - theta) for k, theta in enumerate(thetas))
    assert history.branches_computed == pytest.approx((steps * on + measured * (on + flips)) / (steps * 4))


def test_branches_computed_while_sampling_with_a_paired_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every second step one branch of four that are on is left out of a second pass, made from there on."""
    left_out = itertools.cycle(range(4))
    monkeypatch.setattr("bayesprune.infer.estimators._choose", lambda objective, count: next(left_out))
    net = bayesian(branches())
    set_theta(net, g1=[1.0], g2=[1.0], g3=[1.0], g4=[1.0])
    schedule = {"sample_from": 0.0, "settle_from": 1.0, "fine_tune_from": 1.0, "travel": 1e-12}
    settings = Settings(schedule=schedule, every=2, estimator="paired")
    history = fit(net, Batches(*examples()), epochs=1, settings=settings)
    phases = [Schedule(1, 12, **schedule).phase(step) for step in range(12)]
    moves = sum(phase == "sample" for phase in phases[::2])
    assert moves >= 5
    behind = sum(3 - k % 4 for k in range(moves))
    assert history.branches_computed == (12 * 4 + behind) / (12 * 4)


@pytest.mark.parametrize("thetas", [[1.0, 1.0, 1.0, 1.0], [0.25, 0.9, 0.5, 0.0]])
def test_branches_are_charged_as_often_as_they_are_on(thetas: list[float]) -> None:
    """Also below ½, where the most probable network has none of them."""
    net, (x, y) = bayesian(branches()), examples()
    set_theta(net, **{f"g{k + 1}": [theta] for k, theta in enumerate(thetas)})
    history = fit(net, Batches(x, y), epochs=2, prune=False, settings=Settings(schedule=REST))
    always, branch = x.shape[1] * 4 + 4 * 2, 4 * 4
    assert history.charged == pytest.approx(2 * 3 * len(x) * (always + branch * sum(thetas)))


def test_a_network_without_branches_computes_none() -> None:
    assert math.isnan(fit(bayesian(units()), Batches(*examples()), epochs=1).branches_computed)
