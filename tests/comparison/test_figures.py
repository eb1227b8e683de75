"""Intervals and differences against scipy, goals at their borders, ranges at their ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bayesprune.comparison import ComparisonResult, Plan, Row
from bayesprune.comparison.curves import draw_curves
from bayesprune.comparison.goals import Aimed, Goal, aim, least
from bayesprune.comparison.measuring import nonzero
from bayesprune.comparison.ranges import Choice, Range, trials
from bayesprune.comparison.statistics import interval, lines
from bayesprune.errors import ConfigError
from bayesprune.networks import lenet300

GENERATOR = np.random.default_rng(5)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_an_interval_is_that_of_scipy(count: int) -> None:
    values = GENERATOR.normal(0.9, 0.02, count)
    found, law = interval(values), stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.mean, found.count) == (pytest.approx(values.mean()), count)
    assert (found.low, found.high) == pytest.approx((law.low, law.high), rel=1e-12)


def test_of_one_value_nothing_is_known_and_of_none_less() -> None:
    assert interval([0.5]).half == math.inf and math.isnan(interval([]).mean)


def row(method: str, seed: int, accuracy: float, **more: object) -> Row:
    return Row("test", "a", method, "macs", 0.5, 1.0, seed=seed, accuracy=accuracy, **more)  # type: ignore[arg-type]


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = GENERATOR.normal(0.9, 0.02, 4), GENERATOR.normal(0.88, 0.02, 4)
    rows = [row("svi", seed, value) for seed, value in enumerate(ours)]
    rows += [row("taylor", seed, theirs[seed]) for seed in (3, 1, 0, 2)]
    (line,) = (line for line in lines(rows) if line.method == "taylor")
    law = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert line.behind is not None
    assert (line.behind.low, line.behind.high) == pytest.approx((law.low, law.high), rel=1e-12)


def test_runs_that_came_to_nothing_are_counted_and_not_averaged_but_guessing_is() -> None:
    rows = [row("svi", 0, 0.9), row("taylor", 0, 0.8, nll=1.0), row("taylor", 1, math.nan, error="no")]
    rows.append(row("taylor", 2, 0.1, nll=2.3, error="the training loss was nan"))
    first, second = lines(rows)
    assert (first.method, second.method, second.failed) == ("svi", "taylor", 2)
    assert second.accuracy.mean == pytest.approx(0.45) and second.mean("nll") == 1.0


@pytest.mark.parametrize(
    ("measure", "share", "lowest"),
    [
        ("macs", 0.5, 0.45),
        ("macs", 0.1, 0.05),
        ("macs", 0.05, 0.025),
        ("weights", 0.1, 0.09),
        ("weights", 0.05, 0.04),
        ("weights", 0.02, 0.01),
        ("weights", 0.01, 0.005),
    ],
)
def test_a_goal_is_missed_by_one_in_a_hundred_more_and_by_less_than_a_structure_or_half(
    measure: str, share: float, lowest: float
) -> None:
    goal = Goal(measure, share)
    assert [goal.missed(left) for left in (0.0, 0.999 * lowest, 1.02 * share)] == [True, True, True]
    assert [goal.missed(left) for left in (1.001 * lowest, share, 1.0099 * share)] == [False, False, False]
    assert not Goal("free").missed(lowest)


@pytest.mark.parametrize(
    ("low", "high", "end"), [(0.001, 0.0502, 0.0502), (0.049, 0.0504, 0.0504), (0.0499, 0.06, 0.0499)]
)
def test_of_what_is_near_a_goal_the_nearest_is_taken(low: float, high: float, end: float) -> None:
    def left(part: float) -> float:
        return low if part > 0.5 else high

    assert left(least(left, Goal("weights", 0.05), "a jump")) == end


def test_what_jumps_over_a_goal_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a jump cannot leave 0\.05; the closest reachable are 0\.0010, 0\.0600"):
        least(lambda part: 0.001 if part > 0.5 else 0.06, Goal("weights", 0.05), "a jump")


def test_an_end_is_the_end_and_whole_numbers_stay_whole() -> None:
    assert (Range(2, 8).at(0.0), Range(2, 8).at(1.0), Range(2, 8).at(0.4)) == (2, 8, 4)
    assert Range(1e-4, 1e-2, log=True).at(1.0) == 1e-2 and Range(0.25, 0.75).at(0.5) == 0.5
    assert [Choice((False, True)).at(place) for place in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]


def test_trials_begin_with_the_defaults_and_fill_the_ranges() -> None:
    drawn = trials({"a": Range(0.0, 1.0), "b": Choice(("x", "y"))}, 9, seed=4)
    assert drawn[0] == {} and drawn == trials({"a": Range(0.0, 1.0), "b": Choice(("x", "y"))}, 9, seed=4)
    assert sorted(int(8 * one["a"]) for one in drawn[1:]) == list(range(8))  # one in each eighth: a Sobol sequence
    assert trials({}, 3, seed=4) == [{}]  # three times the same would tell no more


@pytest.mark.parametrize("share", [0.1, 0.05, 0.02])
def test_a_lottery_is_told_what_leaves_the_share(share: float) -> None:
    net = lenet300()
    found = aim("lottery", Goal("weights", share), {"cycles": 4}, Aimed(net, torch.zeros(1, 1, 28, 28), 9))["share"]
    hidden, last = 784 * 300 + 300 * 100, 1000
    assert hidden * (1 - found) ** 3 + last * (1 - found / 2) ** 3 == pytest.approx(share * nonzero(net), rel=1e-6)


def test_what_cannot_be_reached_is_refused_with_the_closest() -> None:
    at = Aimed(lenet300((1, 8, 8)), torch.zeros(1, 1, 8, 8), 5)
    with pytest.raises(ConfigError, match=r"targeted_dropout cannot leave 0.02; the closest reachable are 0\.0279"):
        aim("targeted_dropout", Goal("weights", 0.02), {}, at)


def test_a_panel_begins_where_half_of_the_methods_can_be_told_apart() -> None:
    """Best 97, median 96: it begins four times as far below the best, and says that it leaves something out."""
    accuracies = {"a": 0.97, "b": 0.965, "c": 0.96, "d": 0.95, "e": 0.2}
    rows = [row(name, 0, value, macs_left=0.5) for name, value in accuracies.items()]
    (axes,) = draw_curves(lines(rows)).axes
    assert axes.get_ylim()[0] == pytest.approx(93) and axes.get_ylabel() == "accuracy %, from 93 on"
    (whole,) = draw_curves(lines(rows[:4])).axes
    assert whole.get_ylabel() == "accuracy %" and whole.get_ylim()[0] < 95


def test_a_mean_that_leaves_runs_out_is_marked_and_not_compared() -> None:
    """A method that breaks off on the hard seed would else be ahead of ours, which does not."""
    rows = [row("svi", 0, 0.9), row("svi", 1, 0.5)]
    rows += [row("taylor", 0, 0.85), row("taylor", 1, math.nan, error="no")]
    rows += [row("hrank", 0, 0.8), row("hrank", 1, 0.1, error="left 0.6")]
    result = ComparisonResult(Plan.read("quick"), rows)
    assert [line.method for line in result.lines()] == ["svi", "hrank", "taylor"]
    _, guessing, partly = result.lines()
    assert guessing.behind is not None and guessing.behind.mean == pytest.approx((0.1 + 0.4) / 2)
    assert not partly.comparable and partly.behind is None
    *_, last = result.table().splitlines()
    assert "| 85.00 (1 of 2, not comparable) |  |" in last


def test_a_mean_of_runs_that_all_came_to_nothing_is_marked() -> None:
    rows = [row("svi", seed, 0.9) for seed in (0, 1)]
    rows += [row("taylor", seed, 0.1, error="left 0.6") for seed in (0, 1)]
    rows += [row("hrank", 0, 0.1, error="left 0.6"), row("hrank", 1, math.nan, error="no")]
    ours, taylor, hrank = ComparisonResult(Plan.read("quick"), rows).table().splitlines()[2:]
    assert "| 90.00 ± 0.00 |" in ours and "0 of 2" in taylor
    assert "| 10.00 (guessing) | +80.00" in taylor and "| 10.00 (1 of 2, guessing, not comparable) |  |" in hrank


def test_a_run_that_has_no_accuracy_of_ours_compares_nothing() -> None:
    found = lines(
        [row("svi", 0, 0.9), row("svi", 1, math.nan, error="no"), row("taylor", 0, 0.8), row("taylor", 1, 0.8)]
    )
    assert [(line.method, line.behind) for line in found] == [("taylor", None), ("svi", None)]


def test_goals_that_differ_have_folders_that_differ() -> None:
    assert [str(Goal("macs", share)) for share in (0.1, 0.1000001, 1)] == ["macs=0.1", "macs=0.1000001", "macs=1"]
