"""Budgets of latency: seconds by laws on a clock that is no clock, and by this machine's own."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.graph import trace
from bayesprune.layers import Gate, Residual, eval_mode
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.penalties import by_budget, make_penalty, timing
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.pruning import CostPrice, compact
from bayesprune.pruning.meter import count_macs
from bayesprune.training import Settings
from tests.methods.budgets import Timed, X, trained
from tests.training.problems import bayesian, branches


class Law:
    """Every operation takes a time of its own and more for what it computes, on a machine now fast, now slow."""

    def __init__(self, floor: float, rate: float, pointwise: float):
        self.floor, self.rate, self.pointwise = floor, rate, pointwise
        self.speed = random.Random(0)

    def __call__(self, nets: Sequence[nn.Module], example: Tensor) -> list[list[float]]:
        speed = self.speed.uniform(1, 2)
        return [[speed * seconds for seconds in self.of(net, example)] for net in nets]

    def of(self, net: nn.Module, example: Tensor) -> list[float]:
        with eval_mode(net), torch.no_grad():
            traced = trace(net)
            macs = count_macs(traced, example)
        none = Gate, nn.Identity
        return [
            0.0 if isinstance(traced.module(node), none) else self.floor + self.rate * n if n else self.pointwise
            for node, n in macs.items()
        ]


def narrow_branches() -> nn.Module:
    """Eight branches of twelve units."""
    bodies = [Residual(nn.Sequential(layers.Linear(4, 12, gate="unit"), nn.ReLU(), nn.Linear(12, 4))) for _ in range(8)]
    return nn.Sequential(nn.Linear(8, 4), *bodies, nn.Linear(4, 2))


def wide() -> nn.Module:
    """Two layers of units."""
    return nn.Sequential(
        layers.Linear(8, 24, gate="unit"), nn.ReLU(), layers.Linear(24, 24, gate="unit"), nn.ReLU(), nn.Linear(24, 2)
    )


LAWS = {"computation": (1.0, 0.1, 0.2), "calls": (10.0, 0.01, 4.0)}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("make", [wide, lambda: branches(16), narrow_branches], ids=["units", "branches", "both"])
def test_expected_seconds_are_those_of_what_compaction_leaves(make, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the gates are, and however the machine's speed changes: branches and whole layers are off exactly."""
    monkeypatch.setattr(timing, "compare_latencies", Law(*LAWS[law]))
    net = bayesian(make())
    penalty = make_penalty(net, X[:1], Settings(budget=Budget("latency", 0.95)), Schedule(10, 10))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        with torch.no_grad():
            net.theta.copy_(torch.rand(net.num_gates, generator=generator) < 0.7)
            for name, part in net.by_gate(net.theta).items():
                part[0] = 1.0 if not net.is_branch(name) else part[0]
        # the one unit that is left as a layer's narrowest counts as what it takes however narrow it is
        assert penalty._cost(net.theta) == pytest.approx(penalty._compacted(net.theta.cpu() > 0.5), abs=0.03)


@pytest.mark.statistical
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("make", "law"),
    [
        pytest.param(wide, "computation", id="units"),
        pytest.param(lambda: branches(16), "calls", id="branches", marks=pytest.mark.slow),
        pytest.param(narrow_branches, "calls", id="both"),
    ],
)
def test_a_latency_budget_is_used_on_a_machine_whose_speed_changes(
    make, law: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the budget at least 0.85 is left; one branch of 16 is a tenth of it."""
    torch.manual_seed(seed)
    clock = Law(*LAWS[law])
    monkeypatch.setattr(timing, "compare_latencies", clock)
    net, whole = bayesian(make()), sum(clock.of(make(), X[:1]))
    trained(net, "latency=0.6", epochs=20)
    assert 0.85 <= sum(clock.of(compact(net), X[:1])) / (0.6 * whole) <= 1


def test_what_a_budget_pays_for_is_not_removed_while_gates_are_on_their_way() -> None:
    """Four branches of 16 multiply-adds beside 40: 0.7 of 104 pays for two, so two may go, the dearest."""
    net = bayesian(branches(4))
    penalty = make_penalty(net, X[:1], Settings(budget=Budget("macs", 0.7)), Schedule(10, 10))
    net_cost = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert penalty.may_go(torch.tensor([True, False, True, True]), net_cost).tolist() == [False, False, False, True]
    assert penalty.may_go(torch.tensor([False, True, False, False]), net_cost).tolist() == [False, True, False, False]


def test_what_is_of_use_comes_back_as_far_as_the_budget_pays_for_it() -> None:
    """One of four is left where two are paid for: the one that brings most comes back, without a warning."""
    net = bayesian(branches(4))
    penalty = make_penalty(net, X[:1], Settings(budget=Budget("macs", 0.8)), Schedule(10, 10))
    with torch.no_grad():
        net.theta.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    penalty.enforce(torch.tensor([-0.1, -0.4, -0.2, 0.3]))
    assert net.theta.tolist() == [0.0, 1.0, 1.0, 0.0]
    penalty.enforce(torch.full((4,), math.nan))  # nothing is known: nothing comes back
    assert net.theta.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_a_latency_budget_is_met_by_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Timed()
    monkeypatch.setattr(timing, "compare_latencies", clock)
    net = bayesian(branches(6))
    history = trained(net, "latency=0.6")
    assert sum(clock.of(compact(net))) <= 0.6e-6 * (36 + 6 * 20 + 10)
    assert history.rows[-1].expected <= 0.6
    assert clock.asked > 3  # at the start, after removals, at the end


def test_seconds_come_from_process_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process would measure others, and then hold other prices."""
    net = bayesian(branches(4))
    clock = Timed()
    seconds = clock.of(net.net)
    monkeypatch.setattr(timing, "compare_latencies", lambda nets, x: [seconds, *([math.nan] * 20 for _ in nets[1:])])

    def broadcast(value: Any) -> Any:
        return [[part / sum(seconds) for part in seconds]] if isinstance(value, list) else value

    with pytest.raises(ConfigError, match=r"1\.0000 of latency are left, so no budget"):
        make_penalty(net, X, Settings(budget=Budget("latency", 0.3)), Schedule(10, 10), broadcast=broadcast)
    prices = make_penalty(net, X, Settings(price=CostPrice(0.1)), Schedule(10, 10), broadcast=broadcast)
    assert prices.nu == pytest.approx(0.02)


def test_only_what_goes_has_a_price_where_width_saves_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer takes a second, or half a one and half of it by its width: a branch saves two, units none or some."""
    body = nn.Sequential(layers.Linear(4, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 4))
    net = bayesian(nn.Sequential(nn.Linear(4, 4), Residual(body), nn.Linear(4, 2)))
    for by_width in (0.0, 0.5):

        def of(net: nn.Module, by_width: float) -> list[float]:
            traced = trace(net)
            calls = [traced.module(node) for node in traced.graph.nodes if node.op.startswith("call")]
            width = sum(m.out_features for m in calls if isinstance(m, nn.Linear)) / 16
            return [(1 - by_width + by_width * width) * isinstance(m, nn.Linear) for m in calls]

        monkeypatch.setattr(timing, "compare_latencies", lambda nets, x, w=by_width: [of(net, w) for net in nets])
        make_penalty(net, torch.zeros(1, 4), Settings(budget=Budget("latency", 0.9)), Schedule(10, 10))
        price = net.by_gate(net.price)
        branch = next(name for name in price if net.is_branch(name))
        (units,) = (part for name, part in price.items() if name != branch)
        assert float(price[branch]) > 0
        assert bool((units < 1e-4 * price[branch]).all()) == (by_width == 0)  # no price is quite 0


def test_seconds_that_pruning_cannot_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that is small already, the seconds of the least one may be no fewer."""
    monkeypatch.setattr(by_budget.BudgetPenalty, "_compacted", lambda self, theta: 1.06)
    with pytest.raises(ConfigError, match=r"1\.0600 of latency are left, so no budget of latency can be met\. Give"):
        make_penalty(bayesian(branches(4)), X, Settings(budget=Budget("latency", 0.3)), Schedule(10, 10))


def test_a_measured_latency_budget_in_a_real_run() -> None:
    """Branches of one slow layer each, on this machine's own clock; half of them have to go."""

    def make() -> nn.Module:
        wide = [Residual(nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 8))) for _ in range(4)]
        return nn.Sequential(*wide, nn.Linear(8, 2))

    net = bayesian(make())
    history = trained(net, "latency=0.7", epochs=6)
    assert net.num_gates < 4 and history.rows[-1].expected <= 0.7
