"""Phases in order, and step sizes that add up to the distance that θ may travel, however long the run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi import SVI
from bayesprune.methods.svi.normal_weights import divergence_share
from bayesprune.methods.svi.penalties.by_cost import CostPenalty
from bayesprune.methods.svi.schedule import DEFAULTS, SETTLED, TEMPERED, make_schedule
from bayesprune.networks import resmlp
from bayesprune.optim.rates import learning_rate, second_rate
from bayesprune.pruning import CostPrice, cost
from bayesprune.training import Engine, Schedule, Settings
from bayesprune.training.trainer import Trainer
from tests.training.problems import bayesian, branches, shuffled, units

LENGTHS = [(1, 1), (1, 7), (2, 10), (3, 33), (20, 4), (40, 469), (7, 1000)]


def settling_evaluations(schedule: Schedule) -> list[int]:
    """The steps at which the loop moves θ while settling: the last of every whole interval."""
    every = schedule.settle_every
    return [
        step
        for step in range(schedule.settle_start, schedule.settle_end)
        if (step - schedule.settle_start) % every == every - 1
    ]


@pytest.mark.parametrize("travel", [1.0, 5.0, 12.5])
@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_steps_of_sampling_add_up_to_travel(epochs: int, steps: int, travel: float) -> None:
    schedule = Schedule(epochs, steps, travel=travel)
    sizes = [schedule.sampling_step(s) for s in range(schedule.sample_start, schedule.settle_start)]
    if sizes:
        assert sum(sizes) == pytest.approx(travel, rel=1e-9)
        assert all(a > b > 0 for a, b in pairwise(sizes))


@pytest.mark.parametrize("travel", [1.0, 5.0])
@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_steps_of_settling_add_up_to_travel(epochs: int, steps: int, travel: float) -> None:
    schedule = Schedule(epochs, steps, travel=travel, checks_per_epoch=4)
    sizes = [schedule.settling_step(s) for s in settling_evaluations(schedule)]
    length = schedule.settle_end - schedule.settle_start
    assert schedule.settle_every == max(1, min(steps, length) // 4, min(8, length // 20))
    assert len(sizes) >= min(4, length)
    assert schedule.settle_every <= max(1, steps // 4) or (schedule.settle_every <= 8 and len(sizes) >= 20)
    if sizes:
        assert sum(sizes) == pytest.approx(travel, rel=1e-9)
        assert all(a > b > 0 for a, b in pairwise(sizes))


@pytest.mark.parametrize("last", [0.1, 0.5, 1.0])
def test_steps_fall_linearly_to_last(last: float) -> None:
    schedule = Schedule(100, 100, sample_from=0.0, settle_from=1.0, fine_tune_from=1.0, travel=5.0, last=last)
    first, end = schedule.sampling_step(schedule.sample_start), schedule.sampling_step(schedule.steps - 1)
    assert end / first == pytest.approx(last, abs=2e-4)
    middle = schedule.sampling_step((schedule.sample_start + schedule.steps) // 2)
    assert middle == pytest.approx((first + end) / 2, rel=1e-3)


def test_phases_in_order_and_their_boundaries() -> None:
    schedule = Schedule(10, 20, sample_from=0.1, settle_from=0.4, fine_tune_from=0.75)
    assert (schedule.steps, schedule.sample_start, schedule.settle_start, schedule.settle_end) == (200, 20, 80, 150)
    phases = [schedule.phase(step) for step in range(200)]
    assert phases == ["warm-up"] * 20 + ["sample"] * 60 + ["settle"] * 70 + ["fine-tune"] * 50


@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_phases_follow_each_other_for_every_length(epochs: int, steps: int) -> None:
    schedule = Schedule(epochs, steps)
    order = ["warm-up", "sample", "settle", "fine-tune"]
    ranks = [order.index(schedule.phase(step)) for step in range(schedule.steps)]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("fractions", "phase"),
    [((1.0, 1.0, 1.0), "warm-up"), ((0, 1, 1), "sample"), ((0, 0, 1), "settle"), ((0, 0, 0), "fine-tune")],
)
def test_a_run_of_one_phase(fractions: tuple[float, float, float], phase: str) -> None:
    sample, settle, fine_tune = fractions
    schedule = Schedule(3, 5, sample_from=sample, settle_from=settle, fine_tune_from=fine_tune)
    assert {schedule.phase(step) for step in range(15)} == {phase}


@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_no_gate_moves_before_the_learning_rate_is_up(epochs: int, steps: int) -> None:
    """Unless sampling is to begin at once."""
    schedule = Schedule(epochs, steps, sample_from=0.001, settle_from=0.4)
    warm = min(200, max(1, epochs * steps // 10))
    assert schedule.sample_start == min(warm, schedule.settle_start)
    assert learning_rate(warm - 1, epochs * steps, warm) >= learning_rate(warm, epochs * steps, warm)
    assert Schedule(epochs, steps, sample_from=0.0, settle_from=0.4).sample_start == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0, "steps_per_epoch": 5}, "Schedule: epochs must be a whole number, at least 1, got 0"),
        ({"epochs": 5, "steps_per_epoch": 0}, "Schedule: steps_per_epoch must be a whole number, at least 1, got 0"),
        ({"epochs": 5, "steps_per_epoch": 5, "sample_from": 0.5, "settle_from": 0.4}, "got 0.5, 0.4"),
        ({"epochs": 5, "steps_per_epoch": 5, "fine_tune_from": 1.1}, r"fine_tune_from must be in \[0, 1\], got 1\.1"),
        ({"epochs": 5, "steps_per_epoch": 5, "sample_from": -0.1}, r"sample_from must be in \[0, 1\], got -0\.1"),
    ],
)
def test_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**arguments)  # type: ignore[arg-type]


def test_under_a_fixed_prior_theta_follows_to_the_end_once_an_epoch() -> None:
    schedule = Schedule(100, 20, **DEFAULTS["fixed"])  # type: ignore[arg-type]
    assert schedule.settle_every == 20 and schedule.settle_end == schedule.steps


def test_evaluations_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="exact_share must be positive and finite, got 0"):
        Schedule(10, 10, exact_share=0.0)


@pytest.mark.parametrize(
    ("prior", "weights", "kind"),
    [
        (FlatteningPrior(4.0), "point", "point"),
        (FlatteningPrior(4.0), "normal", "normal"),
        (FixedInclusion(0.1), "point", "fixed"),
        (FixedInclusion(0.1), "normal", "fixed"),
    ],
)
def test_phases_suit_prior_and_posterior_where_nothing_else_is_chosen(
    prior: FlatteningPrior | FixedInclusion, weights: str, kind: str
) -> None:
    net = BayesianNet(units(), num_data=10, prior=prior, weights=weights)
    cold = Settings(lr=0.1, temperature=0.1) if weights == "normal" else Settings()
    assert make_schedule(net, 10, 20, cold) == Schedule(10, 20, **DEFAULTS[kind])  # type: ignore[arg-type]
    chosen = {"settle_from": 0.35, "slab_by": 0.1}
    expected = DEFAULTS[kind] | chosen | ({"sample_from": 0.35} if (kind, weights) == ("fixed", "normal") else {})
    assert make_schedule(net, 10, 20, Settings(schedule=chosen)) == Schedule(10, 20, **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(("prior", "kind"), [(FlatteningPrior(4.0), "normal"), (FixedInclusion(0.1), "fixed")])
def test_at_temperature_one_the_data_are_fitted_before_the_divergence_counts(
    prior: FlatteningPrior | FixedInclusion, kind: str
) -> None:
    """No gate of a fixed prior is judged first when all of it counts already; recipes with other temperatures stay."""
    net = BayesianNet(units(), num_data=10, prior=prior, weights="normal")
    schedule = make_schedule(net, 10, 20, Settings(lr=0.1))
    phases = DEFAULTS[kind] | TEMPERED | ({"sample_from": SETTLED, "settle_from": SETTLED} if kind == "fixed" else {})
    assert schedule == Schedule(10, 20, **phases)  # type: ignore[arg-type]
    assert 0.3 < divergence_share(schedule, schedule.sample_start) < 0.7
    assert make_schedule(net, 10, 20, Settings(lr=0.1, schedule={"slab_by": 0.2})).slab_by == 0.2


@pytest.mark.parametrize("slab_scale", [None, 0.5])
def test_gates_of_a_fixed_prior_wait_until_their_weights_can_have_arrived(slab_scale: float | None) -> None:
    """Adam moves a weight by the learning rate at most in a step; where it cannot arrive, a line says what to do."""
    net = BayesianNet(units(), num_data=10, prior=FixedInclusion(0.1), weights="normal", slab_scale=slab_scale)
    distance = slab_scale or 1.0
    schedule = make_schedule(net, 10, 20, Settings(lr=distance / 50))
    rates = [distance / 50 * learning_rate(step, 200, 20) for step in range(200)]
    assert sum(rates[: schedule.settle_start]) >= distance > sum(rates[: schedule.settle_start - 1])
    assert schedule.settle_start > 40 and not schedule.samples
    with pytest.warns(UserWarning, match=r"fit: 200 steps at lr=0\.001 move a weight by 0\.09\d at most.*lr=0\.0\d"):
        assert make_schedule(net, 10, 20, Settings(lr=1e-3)).settle_start == 200
    assert make_schedule(net, 10, 20, Settings(lr=1e-3, schedule={"settle_from": 0.1})).settle_start == 20
    assert make_schedule(net, 10, 20, Settings(optimizer=torch.optim.SGD)).settle_start == 40
    net.net.requires_grad_(False)
    assert make_schedule(net, 10, 20, Settings(lr=1e-3)).settle_start == 40


@pytest.mark.parametrize(
    ("make", "resting", "kind", "settling"),
    [
        (branches, [], "branches", (50, 100)),
        (branches, ["0"], "branches", (50, 100)),
        (units, ["1"], "frozen", (70, 140)),
        (units, ["1", "3"], "frozen", (70, 140)),
    ],
)
def test_gates_are_decided_later_where_there_are_branches_or_weights_rest(
    make: Callable[[], nn.Module], resting: list[str], kind: str, settling: tuple[int, int]
) -> None:
    module = make()
    for name in resting:
        module.get_submodule(name).requires_grad_(False)
    schedule = make_schedule(BayesianNet(module, num_data=10), 10, 20, Settings())
    assert schedule == Schedule(10, 20, **DEFAULTS[kind])  # type: ignore[arg-type]
    assert (schedule.settle_start, schedule.settle_end) == settling > (Schedule(10, 20).settle_start, 80)


@pytest.mark.parametrize(("weights", "share"), [("point", 0.4), ("normal", None)])
def test_the_learning_rate_rises_again_as_gates_come_to_rest(weights: str, share: float | None) -> None:
    """Where weights are points, from the first step of fine-tuning on."""
    net = BayesianNet(units(), num_data=32, weights=weights)
    loader = [(torch.randn(8, 8), torch.randint(2, (8,)))] * 4
    trainer = Trainer(net, loader, 5, True, Settings(), Engine("cpu"), SVI())
    assert trainer.stretch.phase.rise_again == share
    start = Schedule(5, 4).settle_end
    rest = 20 - start
    whole = [learning_rate(step, 20, 2) for step in range(20)]
    again = [*whole[:start], *(second_rate(step, rest, 1) for step in range(rest))]
    assert [trainer.stretch.rate(step, 4) for step in range(20)] == (whole if share is None else again)


def test_prices_are_relative_to_all_branches_though_a_run_begins_with_few() -> None:
    net = bayesian(resmlp((8,), 2, depth=24, width=4))
    whole = cost(net, torch.zeros(1, 8))
    method = SVI(settings := Settings(price=CostPrice(0.1)))
    Trainer(net, shuffled(), 5, True, settings, Engine("cpu"), method)
    assert net.theta.tolist() == pytest.approx([0.375] * 24)
    assert isinstance(method.penalty, CostPenalty) and method.penalty.price.reference == whole
    drawn = [sum(method.sampler(40).on) for _ in range(400)]
    assert sum(drawn) / 400 == pytest.approx(9, abs=0.5)  # 4.2 standard errors


@pytest.mark.parametrize(
    ("chosen", "begins"),
    [
        ({"settle_from": 0.5}, (0.05, 0.5, 0.625)),  # a quarter of what is left, as 0.2 is of 0.8
        ({"settle_from": 0.5, "sample_from": 0.1}, (0.1, 0.5, 0.625)),
        ({"fine_tune_from": 0.1}, (0.025 / 2, 0.05, 0.1)),
        ({"settle_from": 0.3}, (0.05, 0.3, 0.4)),  # nothing is out of order
    ],
)
def test_phases_that_were_not_chosen_make_way(chosen: dict[str, float], begins: tuple[float, ...]) -> None:
    net = BayesianNet(nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Linear(3, 1)), num_data=10)
    schedule = make_schedule(net, 10, 10, Settings(schedule=chosen))
    assert (schedule.sample_from, schedule.settle_from, schedule.fine_tune_from) == pytest.approx(begins)


def test_phases_that_were_all_chosen_have_to_be_in_order() -> None:
    net = BayesianNet(nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Linear(3, 1)), num_data=10)
    with pytest.raises(ConfigError, match=r"got 0\.4, 0\.3, 0\."):
        make_schedule(net, 10, 10, Settings(schedule={"sample_from": 0.4, "settle_from": 0.3}))
