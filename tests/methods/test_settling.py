"""What is measured between two steps of θ under a fixed prior, and where θ goes as it comes to rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FixedInclusion
from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual
from bayesprune.methods.svi.allowance import LEAST, Allowance
from bayesprune.methods.svi.exact import ExactSteps
from bayesprune.methods.svi.gates import GateUpdates
from bayesprune.methods.svi.removal import GateRemoval
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.methods.svi.settling import REPEATS
from bayesprune.training import Settings, fit
from tests.training.problems import EXAMPLES, Batches, bayesian, examples, units
from tests.training.test_surgeon import Patient, off

HALF = {"sample_from": 0.0, "settle_from": 0.0, "fine_tune_from": 1.0}


@pytest.mark.parametrize(("checks", "expected"), [(3, 4 * REPEATS), (12, REPEATS)])
def test_so_many_draws_are_measured_between_two_steps_of_theta(
    checks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a fixed prior, each with gates of its own: four a step, if θ moves at every 4th step or at each."""
    seen: list[list[Tensor]] = [[]]
    add, step = ExactSteps.add, ExactSteps.step

    def adding(self: ExactSteps, x: Tensor, y: Tensor, gates: Any, *args: Any, **kwargs: Any) -> Tensor:
        seen[-1].append(gates.xi.clone())
        return add(self, x, y, gates, *args, **kwargs)

    def stepping(self: ExactSteps, size: float) -> None:
        seen.append([])
        step(self, size)

    monkeypatch.setattr(ExactSteps, "add", adding)
    monkeypatch.setattr(ExactSteps, "step", stepping)
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FixedInclusion(0.5))
    how = Settings(schedule=HALF | {"checks_per_epoch": checks, "travel": 0.01, "exact_share": 100.0})
    fit(net, Batches(*examples()), epochs=2, settings=how, prune=False)
    assert len(seen) > 5
    for draws in seen[1:-1]:
        assert len(draws) == expected
        assert not any(torch.equal(one, other) for one in draws for other in draws if one is not other)


@pytest.mark.parametrize("size", [LEAST, 40])
def test_some_gates_are_measured_where_not_all_can_be(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    add = ExactSteps.add

    def adding(self: ExactSteps, *args: Any, wanted: Tensor, **kwargs: Any) -> Tensor:
        counts.append(int(wanted.sum()))
        return add(self, *args, wanted=wanted, **kwargs)

    def affordable(self: Allowance, x: Tensor, size: int, candidates: Tensor, least: int) -> tuple[int, int]:
        self._look(x)
        return min(3, len(candidates)), size

    monkeypatch.setattr(ExactSteps, "add", adding)
    monkeypatch.setattr(Allowance, "affordable", affordable)
    net = bayesian(units())
    fit(net, Batches(*examples(), size=size), epochs=3, settings=Settings(schedule={"settle_from": 0.1}), prune=False)
    assert 3 in counts and max(counts) == 3


def test_at_rest_theta_is_at_the_nearer_end_and_no_layer_is_empty() -> None:
    patient = off(Patient(units), g0=[0.2, 0.6, 1.0, 0.0, 0.5, 0.9, 0.51, 0.49], g1=[0.1, 0.2, 0.3, 0.0, 0.2, 0.4])
    patient.updates.sampled.net_cost[8 + 3] = -1.0  # the best of a layer that its gates would empty
    with pytest.warns(UserWarning, match="every structure of '1' was due for removal.*needs a Residual around it$"):
        patient.removal.rest()
    ends = [parts.tolist() for parts in patient.net.by_gate(patient.net.theta.detach()).values()]
    assert ends == [[0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0]]


def within() -> nn.Module:
    """Units of a branch, which has a gate of its own."""
    body = nn.Sequential(layers.Linear(8, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 8))
    return nn.Sequential(Residual(body), nn.Linear(8, 2))


def test_of_a_layer_in_a_branch_it_is_not_said_that_it_has_no_by_pass() -> None:
    patient = off(Patient(within), g0=[1.0], g0__body__0=[0.0] * 6)
    with pytest.warns(UserWarning, match=r"is kept, because only the gate of the Residual around it .* run$"):
        patient.removal.rest()


def test_probabilities_stay_what_they_are() -> None:
    """Those of a fixed prior."""
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FixedInclusion(0.5))
    before = net.theta.detach().clone()
    GateRemoval(net, None, GateUpdates(net), 1, torch.logical_and, bool).rest()  # type: ignore[arg-type]
    assert torch.equal(net.theta, before) and 0 < float(before.min()) < 1


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("fine_tune_from", [0.6, 1.0])
def test_theta_is_rounded_where_fine_tuning_comes_and_reported_where_not(fine_tune_from: float, prune: bool) -> None:
    """Steps of θ are too short here to take it to an end."""
    net = bayesian(units())
    schedule = {"sample_from": 0.2, "settle_from": 0.4, "fine_tune_from": fine_tune_from, "travel": 0.05}
    history = fit(net, Batches(*examples()), epochs=5, settings=Settings(schedule=schedule), prune=prune)
    theta = net.theta.detach()
    inside = bool(((theta > 0) & (theta < 1)).any())
    assert inside == (fine_tune_from == 1.0)
    assert (history.rows[-1].gates_converged == 1) == (not inside)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 100), (2, 60), (3, 40), (1, 20)])
def test_the_shortest_runs_settle_too(epochs: int, steps: int) -> None:
    schedule = Schedule(epochs, steps)
    settled = [s for s in range(schedule.steps) if schedule.phase(s) == "settle"]
    ends = [s for s in settled if (s - schedule.settle_start) % schedule.settle_every == schedule.settle_every - 1]
    assert len(ends) >= 4
