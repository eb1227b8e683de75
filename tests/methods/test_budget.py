"""Budgets as they are written, and their multiplier on problems whose answer is known by sorting."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bayesprune.errors import ConfigError
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.multiplier import LEAST, REACH, START, Multiplier, dual_maximiser


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs=0.4", Budget("macs", 0.4)),
        ("params=.05", Budget("params", 0.05)),
        (" latency = 9e-1", Budget("latency", 0.9)),
    ],
)
def test_parse(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget == Budget.parse(str(budget))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops=0.4", "unknown measure 'flops'; known are latency, macs, params"),
        ("=0.4", "unknown measure ''"),
        ("macs", "expected MEASURE=FRACTION, for example macs=0.4, got 'macs'"),
        ("0.4", "expected MEASURE=FRACTION"),
        ("macs=", "expected MEASURE=FRACTION"),
        ("macs=half", "got 'macs=half'"),
        ("macs=nan", "expected MEASURE=FRACTION"),
        ("macs=40%", "expected MEASURE=FRACTION"),
        ("macs=0.4,params=0.5", "expected MEASURE=FRACTION"),
        ("macs=0", r"must be in \(0, 1\), got 0.0"),
        ("macs=1", r"must be in \(0, 1\), got 1.0"),
        ("macs=-0.3", r"must be in \(0, 1\), got -0.3"),
        ("params=40", r"must be in \(0, 1\), got 40.0"),
        ("params=inf", r"must be in \(0, 1\), got inf"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget.parse(text)


@dataclass
class Separable:
    """Structures with a benefit and a share of the cost each, whatever the others do."""

    benefit: Tensor
    share: Tensor

    @classmethod
    def draw(cls, count: int, seed: int, scale: float = 1.0) -> Separable:
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(count, generator=generator) + 0.1
        benefit = scale * torch.randn(count, generator=generator).exp()
        return cls(benefit, share / share.sum())

    def cost(self, theta: Tensor) -> float:
        return float(self.share @ theta.to(self.share.dtype))

    def savings(self, theta: Tensor) -> Tensor:
        """∂2√c."""
        return self.share / max(self.cost(theta), 1e-6) ** 0.5

    def kept(self, target: float) -> Tensor:
        """Which structures to keep: the most beneficial for their share, as long as the target allows the next."""
        on = torch.zeros(len(self.share), dtype=torch.bool)
        for s in (self.benefit / self.share).argsort(descending=True):
            on[s] = True
            if self.cost(on) > target:
                on[s] = False
                break
        return on


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [0.02, 0.1, 0.5, 0.9])
def test_dual_maximiser_separates_what_a_target_allows(seed: int, target: float) -> None:
    problem = Separable.draw(12, seed)
    nu = dual_maximiser(-problem.benefit, problem.share, target, problem.cost)
    assert torch.equal(problem.benefit / problem.share > nu, problem.kept(target))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", [0.2, 0.6])
def test_dual_maximiser_is_next_above_the_maximum_of_the_dual_function(target: float, seed: int) -> None:
    """By minimising −benefit + ν (cost − target) over all 2^8 masks at every ratio: the function bends there alone."""
    problem = Separable.draw(8, seed)
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
    ratios = (problem.benefit / problem.share).sort().values.tolist()
    dual = [float((nu * (masks @ problem.share - target) - masks @ problem.benefit).min()) for nu in ratios]
    highest = dual.index(max(dual))
    nu = dual_maximiser(-problem.benefit, problem.share, target, problem.cost)
    assert ratios[highest] < nu < ratios[highest + 1]


def test_dual_maximiser_at_its_ends() -> None:
    share = torch.tensor([0.25, 0.25, 0.5])
    problem = Separable(torch.tensor([1.0, 2.0, -3.0]), share)
    assert dual_maximiser(-problem.benefit, share, 0.6, problem.cost) == pytest.approx(2.0)  # half of 1 / 0.25
    assert dual_maximiser(-problem.benefit, share, 0.3, problem.cost) == pytest.approx(math.sqrt(4 * 8))
    assert dual_maximiser(-problem.benefit, share, 0.1, problem.cost) == pytest.approx(2 * 8)
    assert dual_maximiser(torch.ones(3), share, 0.5, problem.cost) == 0.0


def test_structures_that_save_nothing_do_not_decide() -> None:
    """A structure of benefit without a cost has a ratio that is finite and above all others."""
    share = torch.tensor([0.5, 0.5, 0.0])
    problem = Separable(torch.tensor([1.0, 3.0, 0.1]), share)
    nu = dual_maximiser(-problem.benefit, share, 0.6, problem.cost)
    assert nu == pytest.approx(math.sqrt(2 * 6))


def run(problem: Separable, target: float, steps: int = 60) -> tuple[Tensor, list[float]]:
    """θ after sampling and settling on exact differences, under a target that falls while sampling; ν's path."""
    theta, multiplier, path = torch.full((len(problem.share),), 0.9), Multiplier(), []
    beginning = problem.cost(theta)
    for step in range(2 * steps):
        share = min(1.0, step / (0.8 * steps))
        now = beginning ** (1 - share) * target**share
        savings = problem.savings(theta)
        multiplier.step(problem.cost(theta), now, dual_maximiser(-problem.benefit, savings, now, problem.cost))
        price = multiplier.value * savings
        size = 5 / steps * (1 - 0.9 * (step % steps) / steps) / 0.55
        theta = (theta - size * ((price - problem.benefit) / price).clamp(-1, 1)).clamp(0, 1)
        path.append(multiplier.value)
    return theta, path


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_the_survivors_are_those_that_sorting_gives(seed: int, target: float, scale: float) -> None:
    """But for the first one left out, which a relaxed problem keeps in part. Whatever the unit of the loss is."""
    problem = Separable.draw(24, seed, scale)
    theta, path = run(problem, target)
    on = problem.kept(target)
    ratio = problem.benefit / problem.share
    others = ratio != ratio[~on].max()
    assert torch.equal((theta > 0.5)[others], on[others])
    assert problem.cost(theta) < 1.05 * target
    assert path[-10] == pytest.approx(path[-1], rel=0.03)


def test_a_budget_that_does_not_bind_leaves_all_that_is_useful() -> None:
    problem = Separable.draw(10, 0)
    problem.benefit[:4] = -1.0
    theta, path = run(problem, problem.cost(torch.arange(10) >= 4) + 0.05)
    assert theta.tolist() == [0.0] * 4 + [1.0] * 6
    assert path[-1] < float((problem.benefit / problem.savings(theta))[4:].min())


def test_a_step_goes_half_way_on_the_logarithmic_scale_and_never_against_the_violation() -> None:
    multiplier = Multiplier()
    assert multiplier.value == START
    multiplier.step(0.5, 0.4, 4 * START)
    assert multiplier.value == pytest.approx(2 * START)
    multiplier.step(0.5, 0.4, START)
    assert multiplier.value == pytest.approx(2 * START)
    multiplier.step(0.3, 0.4, 8 * START)
    assert multiplier.value == pytest.approx(2 * START)
    multiplier.step(0.3, 0.4, START / 2)
    assert multiplier.value == pytest.approx(START)
    multiplier.step(0.5, 0.4, 1e9)
    assert multiplier.value == pytest.approx(START * REACH**0.5)
    for _ in range(60):
        multiplier.step(0.3, 0.4, 0.0)
    assert multiplier.value == LEAST > 0
