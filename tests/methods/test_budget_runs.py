"""Runs under a budget: it is met, whatever is measured, and a resumed run has the same path."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.penalties import make_penalty, timing
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.pruning import cost
from bayesprune.training import Settings, fit
from tests.methods.budgets import SCHEDULE, Timed, X, relative, trained
from tests.training.problems import Batches, bayesian, branches, convolutional, examples, stream, units
from tests.training.test_checkpoints import verify_resumed


@pytest.mark.parametrize("budget", ["macs=0.25", "params=0.5", pytest.param("macs=0.8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [units, lambda: branches(6), stream])
def test_a_budget_is_met(make, budget: str) -> None:
    """Whatever the run: the guarantee does not rest on the multiplier."""
    net = bayesian(make())
    dense = make()
    with torch.no_grad():
        for gate in bayesian(dense).gates():
            gate.theta.fill_(1.0)
    parsed = Budget.parse(budget)
    history = trained(net, budget)
    found = relative(net, dense, parsed.measure, X)
    assert found <= parsed.fraction
    last = history.rows[-1]
    assert last.expected == pytest.approx(found) and last.nu > 0


@pytest.mark.seed(4)
@pytest.mark.statistical
def test_the_multiplier_ends_within_a_branch_of_the_budget() -> None:
    """Twelve equal branches of which few are needed: seeds 0 to 7 end like this, with θ at rest in 5 of them."""
    net, dense = bayesian(branches(12)), cost(branches(12), X)
    settings = Settings(lr=0.02, every=1, budget=Budget("macs", 0.6), schedule=SCHEDULE)
    history = fit(net, Batches(*examples()), epochs=30, settings=settings)  # with a warning if any were forced
    assert 0.6 - 2 * 16 / dense.macs < history.rows[-1].expected <= 0.6
    settled = [row.expected for row in history.rows if row.phase == "settle"]
    assert settled[-1] == pytest.approx(settled[-3])


def test_without_pruning_the_gates_keep_to_the_budget() -> None:
    net = bayesian(units())
    history = trained(net, "macs=0.3", prune=False)
    assert history.removals == [] and net.num_gates == 14
    assert relative(net, units(), "macs", X) <= 0.3


def test_after_normalisation() -> None:
    x = examples()[0][:, None]
    net, dense = bayesian(convolutional()), convolutional()
    trained(net, "params=0.4", x=x)
    assert relative(net, dense, "params", x) <= 0.4


def test_what_is_forced_is_said_logged_and_removed() -> None:
    """θ rests in a run without sampling and settling: only force can meet the budget."""
    net = bayesian(branches(4))
    schedule = {"sample_from": 0.5, "settle_from": 0.5, "fine_tune_from": 0.5}
    settings = Settings(budget=Budget("macs", 0.8), schedule=schedule)
    with pytest.warns(UserWarning, match=r"2 of 4 structures had to be switched off .* budget macs=0\.8; 0\.6923 are"):
        history = fit(net, Batches(*examples()), epochs=4, settings=settings)
    assert net.num_gates == 2 and [(removal.step, removal.forced) for removal in history.removals] == [(24, True)] * 2
    assert [row.macs for row in history.rows] == [104, 72, 72, 72]
    assert [row.expected for row in history.rows[1:]] == pytest.approx([72 / 104] * 3)


@pytest.mark.parametrize(
    ("make", "budget", "least"),
    [
        (branches, "macs=0.15", "0.154"),  # 16 of 104: compaction joins the two layers that are left
        (branches, "params=0.14", "0.143"),  # 18 of 126
        (units, "macs=0.01", "0.05"),  # 3 of 60: one input, one unit
        (stream, "macs=0.17", "0.179"),  # 10 of 56: one unit
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_at_the_start(make, budget: str, least: str, tmp_path: Path) -> None:
    net = bayesian(make())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure = budget.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{budget} is below what the kept structures cost: .*{measure}={least}"):
        trained(net, budget, out=tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not (tmp_path / "run").exists()
    make_penalty(net, X, Settings(budget=Budget(measure, float(least))), Schedule(10, 10))


def test_history_holds_the_path_of_the_multiplier(tmp_path: Path) -> None:
    net = bayesian(branches(6))
    history = trained(net, "macs=0.6", epochs=20, out=tmp_path)
    with (tmp_path / "history.csv").open() as file:
        written = [(float(row["nu"]), float(row["expected"])) for row in csv.DictReader(file)]
    assert written == [(row.nu, row.expected) for row in history.rows]
    path = [row.nu for row in history.rows if row.phase in ("sample", "settle")]
    assert len(set(path)) > 3 and all(nu > 0 for nu in path)
    resting = [row.nu for row in history.rows if row.phase == "fine-tune"]
    assert len(resting) >= 2 and len(set(resting)) == 1


def test_all_branches_may_go_under_a_budget() -> None:
    net = bayesian(branches(2), log_gamma=1.0)
    history = trained(net, "macs=0.56")  # 40 of 72, or 56 with one of them
    assert net.num_gates == 0 and history.rows[-1].expected == pytest.approx(16 / 72)  # with its two layers joined


@pytest.mark.parametrize(
    ("make", "stops", "budget"),
    [
        pytest.param(units, [1, 3, 5], "macs=0.4", id="units, three stops"),
        pytest.param(branches, [2], "params=0.7", id="branches"),
        pytest.param(branches, [2, 4], "latency=0.7", id="branches, latency"),
    ],
)
def test_resumed_run_has_the_same_path(
    make, stops: list[int], budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "compare_latencies", Timed())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ structures had to be switched off")
        history = verify_resumed(make, lambda: Batches(*examples()), 2.0, tmp_path, stops, budget=Budget.parse(budget))
    assert len({row.nu for row in history.rows}) >= 3


def test_units_within_a_layer_that_is_not_gated_alone() -> None:
    """Layers of units in a row: the budget leaves each at least one."""
    make = lambda: nn.Sequential(  # noqa: E731
        layers.Linear(8, 6, gate="unit"), nn.ReLU(), layers.Linear(6, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 2)
    )
    net, dense = bayesian(make()), make()
    trained(net, "macs=0.15")
    assert relative(net, dense, "macs", X) <= 0.15
    assert all(int((part > 0.5).sum()) >= 1 for part in net.gate_probs().values())
