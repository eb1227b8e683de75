"""What is switched off when it has to be: the least harm for what it saves, and never a layer's last structure."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers import Gate, Residual
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.enforcement import Removable, only_on, switch_off, switch_on
from bayesprune.methods.svi.penalties import make_penalty
from bayesprune.methods.svi.penalties.by_budget import MARGIN
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.pruning import compact, cost
from bayesprune.training import Settings
from tests.training.problems import bayesian, branches, examples, set_theta, units

SHARE = torch.tensor([0.1, 0.2, 0.3, 0.4])


def additive(on: Tensor) -> tuple[float, Tensor]:
    return float(SHARE[on].sum()), SHARE


@pytest.mark.parametrize("goal", [0.95, 0.7, 0.5, 0.25, 0.0])
def test_order_of_harm_for_what_is_saved(goal: float) -> None:
    """Ratios 30, 5, 10 and 20: structures 1, 2, 3, 0 go in this order, each until the goal is met."""
    harm = torch.tensor([3.0, 1.0, 3.0, 8.0])
    left = switch_off(torch.ones(4, dtype=torch.bool), harm, additive, goal, lambda on, s: True)
    expected = torch.ones(4, dtype=torch.bool)
    for s in (1, 2, 3, 0):
        expected[s] = False
        if additive(expected)[0] <= goal + 1e-9:
            break
    assert torch.equal(left, expected)


def test_one_goes_even_if_the_goal_is_met_and_only_among_those_that_are_on_and_may() -> None:
    on = torch.tensor([True, False, True, True])
    harm = torch.tensor([3.0, 0.0, 3.0, 8.0])
    assert switch_off(on, harm, additive, 1.0, lambda on, s: True).tolist() == [True, False, False, True]
    assert switch_off(on, harm, additive, 1.0, lambda on, s: s != 2).tolist() == [True, False, True, False]
    assert torch.equal(switch_off(on, harm, additive, 0.0, lambda on, s: False), on)
    assert on.tolist() == [True, False, True, True]


def beside_a_tenth(share: Tensor) -> Callable[[Tensor], tuple[float, Tensor]]:
    """c = 0.1 + Σ of the shares that are on, and ∂ 2√c = ∂c / √c."""

    def savings(on: Tensor) -> tuple[float, Tensor]:
        cost = 0.1 + float(share[on].double().sum())
        return cost, share / cost**0.5

    return savings


@pytest.mark.parametrize(
    ("harm", "limit", "expected"),
    [
        ([1.5, 8.0, 3.0, 2.0], 0.65, [True, True, False, False]),  # 1, then 0; 0.7 with 2 would be too much
        ([1.0, 4.0, 30.0, 1.0], 0.35, [False, True, False, False]),  # 2 alone is too much: 1 after it
        ([1.0, 1.0, 30.0, 20.0], 0.55, [True, False, True, False]),  # 2; 3 no longer fits, 0 does
        ([-1.0, 0.0, -2.0, 1.0], 1.5, [False, False, False, True]),  # of use is 3 alone
    ],
)
def test_what_comes_back_goes_by_harm_for_what_it_costs(harm: list[float], limit: float, expected: list[bool]) -> None:
    none = torch.zeros(4, dtype=torch.bool)
    assert switch_on(none, torch.tensor(harm), beside_a_tenth(SHARE), limit).tolist() == expected


def test_of_thousands_as_many_as_fit_come_back_for_a_few_looks_at_the_cost() -> None:
    share, asked = torch.full((4000,), 1 / 4000), []
    cost = beside_a_tenth(share)

    def counted(on: Tensor) -> tuple[float, Tensor]:
        asked.append(int(on.sum()))
        return cost(on)

    on = switch_on(torch.arange(4000) < 500, torch.rand(4000) + 1, counted, 0.1 + 2000.5 / 4000)
    assert int(on.sum()) == 2000 and bool(on[:500].all()) and len(asked) < 20


def test_of_equal_harm_the_one_that_saves_most_goes_first_and_what_saves_nothing_last() -> None:
    harm, all_on = torch.zeros(4), torch.ones(4, dtype=torch.bool)
    assert switch_off(all_on, harm, additive, 0.65, lambda on, s: True).tolist() == [True, True, True, False]
    idle = torch.tensor([0.0, 0.5, 0.5, 0.0])
    left = switch_off(all_on, torch.tensor([1e-3, 5.0, 4.0, 1e-3]), lambda on: (float(idle[on].sum()), idle), 0.0,
                 lambda on, s: True)  # fmt: skip
    assert left.tolist() == [True, False, False, True]


class OwnBranches(nn.Module):
    """Two branches with gates that stand alone, and nothing around both: one of them has to stay."""

    def __init__(self, bypass: bool) -> None:
        super().__init__()
        self.bypass = bypass
        self.one, self.two, self.out = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 2)
        self.gate_one, self.gate_two, self.around = Gate(1), Gate(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate_one(self.one(x)) + self.gate_two(self.two(x))
        return self.out(y + self.around(x) if self.bypass else y)


def inner_units() -> nn.Module:
    body = nn.Sequential(layers.Linear(4, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 4))
    return nn.Sequential(nn.Linear(8, 4), Residual(body), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (units, 2),  # an input and a unit
        (branches, 0),
        (inner_units, 1),  # within a branch that is off
        (lambda: OwnBranches(False), 1),
        (lambda: OwnBranches(True), 0),
    ],
)
def test_the_least_that_is_left_works_and_with_any_less_a_layer_would_be_empty(make, left: int) -> None:
    net = bayesian(make())
    on = Removable(net).least()
    assert int(on.sum()) == left
    may_go = Removable(net)
    assert not any(may_go(on, s) for s in on.nonzero()[:, 0].tolist())
    x, _ = examples(6)
    with only_on(net, on):
        outputs = net.eval()(x)
        torch.testing.assert_close(compact(net)(x), outputs)
    assert outputs.shape == (6, 2)


def large_branch() -> nn.Module:
    """Twelve units of 12 multiply-adds, a branch of 160, and 8 that stay: 312."""
    body = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 4))
    return nn.Sequential(
        layers.Linear(8, 12, gate="unit"), nn.ReLU(), nn.Linear(12, 4), Residual(body), nn.ReLU(), nn.Linear(4, 2)
    )


def test_what_had_to_go_before_a_large_branch_comes_back_as_far_as_there_is_room() -> None:
    """Units are taken first for what they save, then the branch, without which all units fit, also an idle one."""
    net = bayesian(large_branch())
    penalty = make_penalty(net, examples(1)[0], Settings(budget=Budget("macs", 0.5)), Schedule(10, 10))
    theta = net.by_gate(torch.arange(net.num_gates))
    harm = torch.ones(net.num_gates)
    harm[theta["0"][:4]], harm[theta["0"][4]], harm[theta["3"]] = 1e-3, -1.0, 0.1
    with pytest.warns(UserWarning, match=r"^1 of 13 structures had to be switched off .*; 0\.4872 are left"):
        forced = penalty.enforce(-harm)
    assert forced.nonzero()[:, 0].tolist() == theta["3"].tolist()
    assert bool((net.theta.detach() > 0.5).logical_xor(forced).all())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [large_branch, units, inner_units])
def test_nothing_that_a_budget_forces_off_would_have_fitted(make: Callable[[], nn.Module], seed: int) -> None:
    """Whichever one of them stays, the compacted network costs more than what is aimed at."""
    net, x = bayesian(make()), examples(1)[0]
    generator = torch.Generator().manual_seed(seed)
    penalty = make_penalty(net, x, Settings(budget=Budget("macs", 0.6)), Schedule(10, 10))
    whole = cost(compact(net), x).macs
    with pytest.warns(UserWarning, match="had to be switched off"):
        forced = penalty.enforce(-torch.rand(net.num_gates, generator=generator))
    on = net.theta.detach() > 0.5

    def share(kept: Tensor) -> float:
        with only_on(net, kept):
            return cost(compact(net), x).macs / whole

    assert bool(forced.any()) and share(on) <= 0.6
    assert all(share(on.index_fill(0, s, True)) > MARGIN * 0.6 for s in forced.nonzero()[:, 0])


def test_units_may_go_while_their_layer_keeps_one() -> None:
    net = bayesian(units())
    may_go = Removable(net)
    for pair in itertools.combinations(range(8), 2):
        on = torch.zeros(14, dtype=torch.bool)
        on[[*pair, 8]] = True
        assert [may_go(on, s) for s in (*pair, 8)] == [True, True, False]


def test_a_vertex_is_left_again() -> None:
    net = bayesian(branches())
    set_theta(net, g1=[0.3], g2=[0.9], g3=[0.0], g4=[1.0])
    before = net.theta.detach().clone()
    with pytest.raises(KeyError), only_on(net, torch.tensor([True, False, True, False])):
        assert net.gate_probs() == {"1": 1.0, "2": 0.0, "3": 1.0, "4": 0.0}
        raise KeyError
    assert torch.equal(net.theta.detach(), before)
