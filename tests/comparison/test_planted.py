"""A comparison finds the answer that is planted, by rules that are the same for all."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesprune.comparison import ComparisonResult, Plan, Row, Task
from bayesprune.comparison.material import Material
from bayesprune.comparison.pacing import best_length, next_length, shorter_length
from bayesprune.comparison.refusals import refusals
from bayesprune.layers import gates_of
from bayesprune.pruning import compact
from tests.comparison.toys import CLASSES, TEST, UNITS, compared, planted, read_csv, settings, splits

METHODS = {"none": {}, "random_structures": {}, "l1_filters": {"until": {"low": 0.4, "high": 0.6}}, "slimming": {}}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A comparison, its folder, and how many test images had been looked at as each row ended."""
    out, data, looks = tmp_path_factory.mktemp("planted"), splits(), []

    def note(row: Row, done: int, count: int) -> None:
        looks.append((row.stage, data.test.looked_at, bool(row.error)))

    result = compared(out, settings(methods=METHODS, untuned=["l1_filters"]), data=data, on_row=note)
    return {"result": result, "out": out, "looks": looks}


def accuracies(result: ComparisonResult, method: str) -> list[float]:
    return [row.accuracy for row in result.rows if row.method == method]


def test_the_method_that_keeps_what_is_needed_wins(told: dict[str, Any]) -> None:
    """By Σ|w| the four units that hold the answer stay; of four at random one at least is wrong in 69 of 70 draws."""
    result = told["result"]
    assert accuracies(result, "l1_filters") == accuracies(result, "none") == [1.0] * 2
    assert max(accuracies(result, "random_structures")) < 1
    best = [line.method for line in result.lines() if line.measure == "macs"]
    assert best == ["l1_filters", "l1_filters-untuned", "random_structures", "slimming"]


def test_what_is_left_is_that_of_the_compacted_network(told: dict[str, Any]) -> None:
    (row,) = (row for row in told["result"].rows if (row.method, row.seed) == ("l1_filters", 0))
    assert (row.macs, row.params, row.weights) == (4 * (16 + 4), 4 * 16 + 4 + 4 * 4 + 4, 4 * (16 + 4))
    assert (row.macs_left, row.weights_left) == (0.5, 0.5)


def test_test_images_are_looked_at_once_a_run_and_by_the_test_stage_alone(told: dict[str, Any]) -> None:
    assert {stage for stage, _, _ in told["looks"]} == {"tuning", "pacing", "test"}
    looks = [0, *(count for _, count, _ in told["looks"])]
    steps = [now - before for before, now in pairwise(looks)]
    assert steps == [TEST * (stage == "test" and not failed) for stage, _, failed in told["looks"]]


def test_trials_are_as_many_where_something_may_be_tuned_and_the_defaults_are_the_first(told: dict[str, Any]) -> None:
    rows = read_csv(told["out"] / "tuning.csv")
    assert Counter(row.method for row in rows) == {name: 1 + bool(ranges) for name, ranges in METHODS.items()}
    assert {row.epochs for row in rows if not row.error} == {2}
    assert {row.options for row in rows if row.trial == 0} == {"{}"}
    assert {row.seed for row in rows} == {7}


def test_runs_take_what_they_may_compute(told: dict[str, Any]) -> None:
    """Half of a run dense and half at half the size takes 0.75 of a dense run: 4/3 as long, in epochs, would do."""
    paces = {row.method: row.charged for row in read_csv(told["out"] / "pacing.csv") if not row.error}
    assert paces == pytest.approx({"l1_filters": 0.75, "random_structures": 0.75})
    assert {row.epochs for row in told["result"].rows if row.method == "l1_filters"} == {int(2 / 0.75)}
    assert max(row.charged for row in told["result"].rows if not row.error) <= 1.05


@pytest.mark.parametrize(
    ("grows", "lengths"),
    [
        (lambda length: length / 20, [20]),  # as long as a dense run, and that is all it may take
        (lambda length: 0.55 * length / 20, [20, 36]),
        (lambda length: 0.6 * (length / 20) ** 0.5, [20, 33, 55]),  # it prunes earlier in a longer run
        (lambda length: 1.3 * length / 20, [20, 15]),  # it looks at more than its steps
        (lambda length: 0.02 * length / 20, [20, 200]),  # ten times the length of a dense run is the most
        (lambda length: 0.6 if length < 30 else 1.2, [20, 33, 27, 32]),  # it jumps over all that would do
        (lambda length: math.nan, [20]),
    ],
)
def test_runs_become_longer_until_they_take_what_they_may(grows: Callable[[int], float], lengths: list[int]) -> None:
    taken: dict[int, float] = {}
    while (length := next_length(taken, 20, 1.0)) is not None:
        taken[length] = grows(length)
    assert [*taken] == lengths


@pytest.mark.parametrize(
    ("taken", "lengths"),
    [
        ({20: 1.0}, []),
        ({20: 0.6, 33: 0.98}, []),  # hardly longer than a dense run
        ({20: 0.1, 200: 1.0}, [63]),
        ({20: 0.1, 70: 0.5, 200: 1.0}, []),  # one between was tried
        ({180: 0.98}, [20, 60]),  # a trial of a network that is small from the start on
        ({20: 0.4, 60: 1.2, 49: 0.99}, [31]),  # what took too much was tried, and is not the longest
        ({20: math.nan}, []),
    ],
)
def test_shorter_runs_are_tried_where_long_ones_fit(taken: dict[int, float], lengths: list[int]) -> None:
    tried = dict(taken)
    while (length := shorter_length(tried, 20, 1.0)) is not None:
        tried[length] = length / 200
    assert [*tried][len(taken) :] == lengths


def test_the_length_with_the_lowest_loss_on_held_out_data_is_taken_of_those_that_fit() -> None:
    taken = {20: 0.3, 40: 0.6, 60: 1.0, 80: 1.3, 90: math.nan}
    assert best_length(taken, {20: 0.3, 40: 0.2, 60: 0.25, 80: 0.1, 90: 0.0}, 1.0) == 40
    assert best_length(taken, {20: 0.2, 40: 0.2, 60: 0.25, 80: 0.1, 90: 0.0}, 1.0) == 20
    assert best_length({80: 1.3}, {80: 0.1}, 1.0) == 0
    assert best_length({20: 0.5, 40: 1.0}, {20: math.nan, 40: 0.3}, 1.0) == 40


def test_a_small_network_is_trained_as_long_as_held_out_data_say(tmp_path: Path) -> None:
    """From the start on at half the size: twice the epochs of a dense run fit, and half of them are tried too."""
    plan = settings(seeds=[0], methods={"svi": {}, "small": {}}, retrained=["svi"])
    result = compared(tmp_path, plan)
    tried = {row.epochs: row.nll for row in read_csv(tmp_path / "pacing.csv") if row.method == "small"}
    best = min(tried, key=lambda epochs: (tried[epochs], epochs))
    lengths = {row.method: row.epochs for row in result.rows if row.measure == "macs"}
    assert {*tried} == {2, 3, 4} and lengths["small"] == best and lengths["svi-retrained"] <= best


def test_a_method_that_cannot_act_leaves_rows_that_say_why(told: dict[str, Any]) -> None:
    failed = [row for row in told["result"].rows if row.method == "slimming"]
    assert len(failed) == 2 and all("no batch normalisation" in row.error for row in failed)
    assert all("\n" not in row.error for row in failed)
    assert "2 of which came to nothing" in repr(told["result"])


def test_a_method_is_run_by_its_defaults_too(told: dict[str, Any]) -> None:
    rows = [row for row in told["result"].rows if row.method == "l1_filters-untuned"]
    assert [(row.trial, row.options, row.accuracy) for row in rows] == [(0, "{}", 1.0)] * 2
    assert "| l1_filters, untuned |" in told["result"].table()


def test_which_methods_refuse_is_known_before_anything_is_trained() -> None:
    data = splits()
    plan, material = Plan.read(settings(methods=METHODS)), Material("", {"planted": planted}, {"planted": data})
    ((task, method, why),) = refusals(plan, material)
    assert (task, method) == ("planted-planted", "slimming") and why.startswith("slimming: no batch normalisation")
    assert data.test.looked_at == 0
    ((_, method, why),) = refusals(replace(plan, macs=(0.5, 0.1), methods={"l1_filters": {}}), material)
    assert method == "l1_filters macs=0.1" and "0.125 of the multiply-adds are left" in why


def test_a_task_may_have_its_gates_put_by_convert() -> None:
    task, data = Task("planted", "planted", epochs=2, convert=True), splits()
    for built in (planted, lambda shape, classes: compact(planted(shape, classes).eval())):
        torch.manual_seed(0)
        net = Material("", {"planted": built}, {"planted": data}).network(task, data)
        torch.manual_seed(0)
        assert {name: gate.size for name, gate in gates_of(net).items()} == {"1_gate": UNITS}
        assert torch.equal(net.get_parameter("1.weight"), planted((), CLASSES)[1].weight)
    deep = Task("resnet8", "digits", epochs=2, width=4, convert=True)
    sizes = [gate.size for gate in gates_of(Material().network(deep, Material().splits(deep))).values()]
    assert sizes.count(1) == 3 and {*sizes} == {1, 4, 8, 16}  # the branch of each stage, and filters within it


def test_the_csv_holds_the_rows(told: dict[str, Any]) -> None:
    assert repr(read_csv(told["out"] / "rows.csv")) == repr(told["result"].rows)
    assert {row.version for row in told["result"].rows} == {"0.1.0"}


def test_the_page_needs_no_other_file_and_holds_all_of_it(told: dict[str, Any]) -> None:
    page = (told["out"] / "comparison.html").read_text(encoding="utf-8")
    assert "<svg" in page and "no batch normalisation" in page and "l1_filters" in page
    assert not re.findall(r"<(?:script|link|img)|@import|\ssrc=", page)
    told["result"].html(told["out"] / "again.html")
    assert (told["out"] / "again.html").read_text(encoding="utf-8") == page


def test_the_table_has_a_line_for_each_method_and_goal(told: dict[str, Any]) -> None:
    header, _, *cells = told["result"].table().splitlines()
    assert len(cells) == len(METHODS) + 1 and all(line.count("|") == header.count("|") for line in cells)
    assert "| planted-planted | 1× | macs 50 % | l1_filters | 100.00 ± 0.00 |" in "\n".join(cells)


@pytest.mark.slow
def test_a_method_that_is_told_what_to_leave_leaves_that(tmp_path: Path) -> None:
    names = ("dropnet", "group_lasso", "hrank", "iss", "large_weights", "lottery", "magnitude", "targeted_dropout")
    changes = {"methods": {name: {} for name in names}, "seeds": [0], "tuning": {"trials": 1, "seed": 7}}
    tasks = [{"net": "planted", "data": "planted", "epochs": 4}]
    result = compared(tmp_path, settings(**changes, tasks=tasks))
    assert {row.method: row.error for row in result.rows} == dict.fromkeys(names, "")
