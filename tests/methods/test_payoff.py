"""When a removal pays: by counts that follow from the network, and what waits goes when θ comes to rest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.methods.svi import payoff
from bayesprune.methods.svi.payoff import SURGERY, Payoff
from bayesprune.methods.svi.penalties import relative
from bayesprune.pruning import CostPrice
from bayesprune.training import Settings, fit
from tests.methods.test_penalties import X, every_kind, penalty_of
from tests.training.problems import EXAMPLES, Batches, bayesian, branches, examples, units


def off(*chosen: int) -> torch.Tensor:
    return torch.isin(torch.arange(14), torch.tensor(chosen))


@every_kind
def test_what_a_removal_saves_is_counted(kind: str) -> None:
    """Eight inputs, six units, two outputs: 8 · 6 + 6 · 2 multiply-adds."""
    penalty = penalty_of(kind, bayesian(units()))
    assert [penalty.saved_macs(off(*chosen)) for chosen in ([0], [8], [0, 8], [])] == [6, 10, 60 - 7 * 5 - 5 * 2, 0]


def test_it_pays_as_long_as_enough_of_the_run_is_left() -> None:
    """An input of `units` saves 6 multiply-adds an example, and the network has 6 modules."""
    net = bayesian(units(), num_data=1000)
    epochs = int(SURGERY / 1000) * 2  # so that half of the run is just worth it
    run = SimpleNamespace(progress=0.499, epochs=epochs)
    pays = Payoff(net, run, penalty_of("constant", net))  # type: ignore[arg-type]
    assert pays(off(0))
    run.progress = 0.501
    assert not pays(off(0)) and pays(off(0, 1))


def test_branches_do_not_wait() -> None:
    net = bayesian(branches(2))
    run = SimpleNamespace(progress=1.0, epochs=1)
    assert Payoff(net, run, penalty_of("constant", net))(torch.tensor([True, False]))  # type: ignore[arg-type]


@pytest.mark.parametrize(("surgery", "early"), [(0.0, True), (1e30, False)])
def test_what_waits_goes_when_theta_comes_to_rest(surgery: float, early: bool, monkeypatch) -> None:
    monkeypatch.setattr(payoff, "SURGERY", surgery)
    torch.manual_seed(0)
    net = bayesian(units(), 6.0)
    settings = Settings(lr=2e-2, every=1, price=CostPrice(0.2))
    history = fit(net, Batches(*examples()), epochs=20, settings=settings, progress=False)
    steps = {removal.step for removal in history.removals}
    end = round(0.4 * 20 * EXAMPLES / 40)
    assert history.removals and max(steps) <= end and not (net.theta == 0).any()
    assert (min(steps) < end) is early


def test_a_cost_is_computed_anew_where_theta_moved(monkeypatch) -> None:
    """Not where it did not."""
    net = bayesian(nn.Sequential(layers.Linear(8, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2)))
    calls = []
    marginal = relative.marginal_cost
    monkeypatch.setattr(relative, "marginal_cost", lambda *given: calls.append(0) or marginal(*given))
    cost = relative.RelativeCost(net, X, {"macs": 1.0})
    found = [cost.savings(net.theta.detach()) for _ in range(3)]
    assert len(calls) == 1 and found[0] == found[2]
    with torch.no_grad():
        net.theta[0] = 0.5
    fresh = relative.RelativeCost(net, X, {"macs": 1.0}).savings(net.theta.detach())
    moved = cost.savings(net.theta.detach())
    assert len(calls) == 3 and moved[0] == fresh[0] < found[0][0] and torch.equal(moved[1], fresh[1])
