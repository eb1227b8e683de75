"""Penalties: laws that every kind keeps, and what their prices are made of."""

from __future__ import annotations

import dataclasses
import io
import math
from itertools import pairwise

import pytest
import torch

from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.multiplier import START
from bayesprune.methods.svi.penalties import Penalty, make_penalty
from bayesprune.methods.svi.penalties.by_budget import budget_share
from bayesprune.methods.svi.penalties.by_cost import price_factor
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.pruning import CostPrice, ExpectedCost, compact, cost, kept_gates, marginal_cost, shrink
from bayesprune.schema import Mismatch
from bayesprune.training import Settings, fit
from tests.training.problems import (
    EXAMPLES,
    Batches,
    bayesian,
    branches,
    examples,
    set_theta,
    units,
)

SCHEDULE = {"checks_per_epoch": 3}
X = examples(1)[0]
LENGTHS = [(1, 1), (1, 7), (2, 10), (3, 33), (20, 4), (40, 469), (7, 1000)]

KINDS = {
    "constant": Settings(),
    "cost": Settings(price=CostPrice(0.1, params=0.25)),
    "budget": Settings(budget=Budget("macs", 0.6)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def penalty_of(kind: str, net: BayesianNet) -> Penalty:
    return make_penalty(net, X, KINDS[kind], Schedule(10, 10))


@every_kind
def test_a_state_goes_on_where_it_was(kind: str) -> None:
    """Written and read like a checkpoint, on a network that has lost a unit since the start."""
    first, second = bayesian(units(), 3.0), bayesian(units(), 3.0)
    mine, theirs = penalty_of(kind, first), penalty_of(kind, second)
    useful = torch.linspace(-1, -0.1, first.num_gates)
    for step in (30, 40):
        mine.update(step, useful)
    for net in (first, second):
        smaller, index = shrink(net.net, {"0": torch.arange(8) == 3})
        net.replace(smaller, kept_gates(net.net, index))
    mine.rebuild()
    mine.schema()(mine.state(), "")
    buffer = io.BytesIO()
    torch.save(mine.state(), buffer)
    buffer.seek(0)
    theirs.load(torch.load(buffer, weights_only=True))
    for step, differences in ((50, None), (60, useful[1:])):
        mine.update(step, differences)
        theirs.update(step, differences)
        assert torch.equal(first.log_gamma, second.log_gamma)
        torch.testing.assert_close(
            (mine.nu, mine.expected), (theirs.nu, theirs.expected), rtol=0, atol=0, equal_nan=True
        )
    assert mine.state() == theirs.state()


@every_kind
def test_prices_follow_the_cost_of_what_is_on(kind: str) -> None:
    """Half of the inputs off: half of the first layer's cost, which that of its units follows."""
    net = bayesian(units(), 3.0)
    set_theta(net, **{"0": [1.0] * 8, "1": [1.0] * 6})
    penalty = penalty_of(kind, net)
    penalty.update(90)
    before, expected = net.by_gate(net.log_gamma.clone()), penalty.expected
    set_theta(net, **{"0": [1.0] * 4 + [0.0] * 4})
    penalty.update(90)
    after = net.by_gate(net.log_gamma)
    if kind == "constant":
        assert bool((net.log_gamma == 3.0).all()) and math.isnan(penalty.expected)
        return
    assert expected == pytest.approx(1.0) and penalty.expected < 0.75
    assert bool((after["1"] < before["1"]).all()) and bool((net.log_gamma > 0).all())


@every_kind
def test_removing_what_is_off_changes_no_price_of_the_others(kind: str) -> None:
    net = bayesian(units(), 3.0)
    set_theta(net, **{"0": [0.0, 1.0] * 4})
    penalty = penalty_of(kind, net)
    before, expected = net.by_gate(net.log_gamma.clone()), penalty.expected
    smaller, index = shrink(net.net, {"0": net.by_gate(net.theta.detach())["0"] == 0})
    net.replace(smaller, kept_gates(net.net, index))
    penalty.rebuild()
    penalty.update(0)
    after = net.by_gate(net.log_gamma)
    torch.testing.assert_close(after["0"], before["0"][1::2])
    torch.testing.assert_close(after["1"], before["1"])
    torch.testing.assert_close(penalty.expected, expected, equal_nan=True)


@every_kind
def test_only_a_budget_switches_anything_off(kind: str) -> None:
    """Of four equal branches as many as the budget allows are left, those of least harm gone."""
    net = bayesian(branches(4))
    set_theta(net, g1=[0.9], g2=[0.9], g3=[0.9], g4=[0.2])
    penalty = make_penalty(net, X, KINDS[kind], Schedule(10, 10))
    assert penalty.needs_differences == (kind == "budget")
    before = net.theta.detach().clone()
    harm = torch.tensor([-0.1, -0.3, -0.2, -0.01])
    if kind != "budget":
        assert not penalty.enforce(harm).any()
        assert torch.equal(net.theta.detach(), before)
        return
    with pytest.warns(UserWarning, match="2 of 3 structures had to be switched off"):
        assert penalty.enforce(harm).tolist() == [True, False, True, False]
    assert net.theta.tolist() == pytest.approx([0.0, 0.9, 0.0, 0.2])
    dense, left = cost(branches(4), X), cost(compact(net), X)
    assert left.macs / dense.macs <= 0.6 < (left.macs + 16) / dense.macs


@every_kind
def test_every_update_lets_the_divergence_of_weights_follow(kind: str) -> None:
    net = BayesianNet(units(), num_data=EXAMPLES, slab="normal")
    penalty = make_penalty(net, X, dataclasses.replace(KINDS[kind], temperature=0.5), Schedule(10, 10))
    penalty.update(99)
    share = net.weights_cost.clone()
    net.refresh()
    torch.testing.assert_close(share, 0.5 * net.weights_cost)


def test_the_least_harm_goes_first() -> None:
    net = bayesian(branches(4))
    set_theta(net, g1=[0.9], g2=[1.0], g3=[0.8], g4=[0.2])
    prices = make_penalty(net, X, Settings(budget=Budget("macs", 0.7)), Schedule(10, 10))
    with pytest.warns(UserWarning, match="1 of 3 structures"):
        assert prices.enforce(torch.tensor([-0.3, -0.1, -0.2, -0.01])).tolist() == [False, True, False, False]
    assert net.theta.tolist() == pytest.approx([0.9, 0.0, 0.8, 0.2])
    prices.enforce(torch.tensor([-0.3, -0.1, -0.2, -0.01]))  # it holds already: no warning
    assert net.theta.tolist() == pytest.approx([0.9, 0.0, 0.8, 0.2])


def test_price_and_budget_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"price \(nu=0\.25\) and budget \(macs=0\.4\) exclude each other"):
        Settings(price=CostPrice(0.25), budget=Budget("macs", 0.4))


def test_constant_prices_have_no_multiplier() -> None:
    net = bayesian(units(), log_gamma=3.0)
    row = fit(net, Batches(*examples()), epochs=1).rows[0]
    assert math.isnan(row.nu) and math.isnan(row.expected)
    assert bool((net.log_gamma == 3.0).all())


def test_cost_prices_in_a_row() -> None:
    """ν has reached its end after half of sampling, and G is that of the θ that the run ends with."""
    net = bayesian(units())
    dense = cost(net, X)
    settings = Settings(price=CostPrice(0.05, params=0.25), schedule={"settle_from": 0.8, "fine_tune_from": 0.8})
    last = fit(net, Batches(*examples()), epochs=10, prune=False, settings=settings).rows[-1]
    expected = ExpectedCost(net.net, X)(net.by_gate(net.theta.detach()))
    assert last.nu == 0.05
    g = (float(expected["params"]) / dense.params) ** 0.25 * (float(expected["macs"]) / dense.macs) ** 0.75
    assert last.expected == pytest.approx(g, rel=1e-6)


def test_log_gamma_is_the_multiplier_times_the_derivative() -> None:
    net = bayesian(units())
    prices = make_penalty(net, X, Settings(budget=Budget("macs", 0.5)), Schedule(10, 10))
    theta = net.by_gate(net.theta.detach())
    _, gradient = marginal_cost(ExpectedCost(net.net, X, ("macs",)), theta, {"macs": 60.0}, {"macs": 1.0})
    assert prices.nu == START and prices.expected == pytest.approx((0.9 * 8 * 0.9 * 6 + 0.9 * 6 * 2) / 60)
    torch.testing.assert_close(net.price, START * torch.cat([gradient[name] for name in net.gate_names]))


def test_a_target_that_falls_raises_the_multiplier_and_one_that_is_met_lowers_it() -> None:
    net = bayesian(branches(4))
    schedule = Schedule(10, 10, sample_from=0.1, settle_from=0.6, fine_tune_from=0.8)
    prices = make_penalty(net, X, Settings(budget=Budget("macs", 0.6)), schedule)
    useful = torch.tensor([-4.0, -3.0, -2.0, -1.0])
    unknown = torch.tensor([-4.0, math.nan, -2.0, -1.0])
    prices.update(30, unknown)
    assert prices.nu == START
    prices.update(30)
    assert prices.nu == START
    for step in (30, 40, 50):
        before = prices.nu
        prices.update(step, useful)
        assert prices.nu > before
    with torch.no_grad():
        net.theta.zero_()
    before = prices.nu
    prices.update(50, useful)  # as many as the target allows are worth more than this
    assert prices.nu == before
    prices.update(50, 1e-3 * useful)
    assert prices.nu < before


BAD_STATES = [
    ({"multiplier": math.nan}, "prices.multiplier: expected a finite number"),
    ({"latency": "long"}, "prices.latency: expected a list of 2"),
    ({"reference": None}, "prices.reference: expected a table"),
    ({"at_rest": "yes"}, "prices.at_rest: expected a finite number"),
]


@pytest.mark.parametrize(("change", "says"), BAD_STATES)
def test_what_a_state_looks_like(change: dict[str, object], says: str) -> None:
    penalty = make_penalty(bayesian(units()), X, Settings(budget=Budget("macs", 0.5)), Schedule(10, 10))
    penalty.schema()(penalty.state(), "prices")
    with pytest.raises(Mismatch, match=says):
        penalty.schema()(penalty.state() | change, "prices")


@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_prices_grow_to_their_full_size_by_the_middle_of_sampling(epochs: int, steps: int) -> None:
    schedule = Schedule(epochs, steps)
    factors = [price_factor(schedule, step) for step in range(schedule.steps)]
    assert factors == sorted(factors) and 0 < factors[0] <= 1
    middle = schedule.sample_start + (schedule.settle_start - schedule.sample_start + 1) // 2
    assert all(factor == 1 for factor in factors[max(middle, schedule.sample_start + 1) :])
    assert all(price_factor(schedule, step) == factors[0] for step in range(schedule.sample_start))


@pytest.mark.parametrize(("epochs", "steps", "often"), [(5, 40, 20), (10, 100, 20), (100, 40, 4 * 15), (6, 4, 3)])
def test_prices_follow_often_enough(epochs: int, steps: int, often: int) -> None:
    """At least 20 times while sampling, if it has as many steps, and some times an epoch."""
    schedule = Schedule(epochs, steps)
    penalty = make_penalty(bayesian(units()), X, Settings(), schedule)
    due = [step for step in range(schedule.steps) if penalty.due(step)]
    assert {schedule.phase(step) for step in due} == {"sample"} and due[0] == schedule.sample_start
    assert often <= len(due) <= 2 * often
    gaps = {later - earlier for earlier, later in pairwise(due)}
    assert len(gaps) == 1 and max(gaps) <= schedule.settle_every


def test_a_budget_comes_down_over_most_of_sampling() -> None:
    schedule = Schedule(10, 100, sample_from=0.1, settle_from=0.6, fine_tune_from=0.8)
    shares = [budget_share(schedule, step) for step in range(schedule.steps)]
    assert shares[:101] == [0.0] * 101 and shares[300] == pytest.approx(0.5)
    assert shares[499] < 1.0 and shares[500:] == [1.0] * 500
    assert shares == sorted(shares)
