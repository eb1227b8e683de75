"""Ratios that are right, times taken in turn, and tables that hold everything."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bayesprune as bp

# comparison ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(bench: Any) -> dict[str, Any]:
    pair = bench.timing.Pair
    dense = bench.running.Row(
        "dense", "resnet8", 0, 0.90, 1000, 500, 9, (3, 3), 10.0, [4.0, 2.0, 2.5, 1.5], 300, {1: pair(2.0, 2.0, 1.0)}
    )
    small = {"macs": 400, "params": 250}
    gated = replace(dense, pipeline="gated", accuracy=0.89, layers=5, branches=(1, 3), seconds=8.0, **small)
    gated = replace(gated, epochs=[5.0, 3.0, 1.0, 1.0], peak=330, latency={1: pair(2.0, 1.2, 0.6)}, converged=1.0)
    peer = replace(dense, pipeline="peer", accuracy=0.88, seconds=16.0, peak=None, **small)
    return {"dense": dense, "gated": gated, "peer": peer}


def test_ratios(bench: Any, rows: dict[str, Any]) -> None:
    found = bench.comparison.against(rows["gated"], rows["dense"])
    assert found.pop("accuracy points") == pytest.approx(-1.0)
    expected = {
        "macs": 0.4,
        "params": 0.5,
        "layers": 5 / 9,
        "first_seconds": 0.5,
        "last_seconds": 0.5,
        "seconds": 0.8,
        "peak": 1.1,
    }
    assert found.pop("cpu_seconds") is None
    assert found == pytest.approx(expected)
    assert bench.comparison.against(rows["gated"], rows["peer"])["peak"] is None
    assert bench.comparison.depth_into_time(rows["gated"], rows["dense"]) == {1: pytest.approx(1.5)}


def test_times_are_the_processors_where_both_were_measured(bench: Any, rows: dict[str, Any]) -> None:
    dense = replace(rows["dense"], cpu_seconds=4.0, cpu_epochs=[1.0, 2.0, 1.0])
    gated = replace(rows["gated"], cpu_seconds=3.0)

    def times_dense(*rows: Any) -> str:
        lines = [line.strip("| ").split(" | ") for line in bench.comparison.pipelines_table(list(rows)).splitlines()]
        return dict(zip(lines[0], lines[3], strict=True))["× dense"]

    assert times_dense(dense, gated) == "0.75" and times_dense(rows["dense"], gated) == "0.80"
    assert bench.comparison.against(gated, dense)["cpu_seconds"] == 0.75
    assert dense.first_seconds == 1.5 and dense.last_seconds == 1.0


def test_the_very_first_epoch_is_not_taken_for_one_at_the_start(bench: Any, rows: dict[str, Any]) -> None:
    assert rows["dense"].first_seconds == 2.0 and rows["gated"].first_seconds == 1.0  # medians of epochs 2 to 4
    assert replace(rows["dense"], epochs=[7.0]).first_seconds == 7.0
    assert rows["gated"].last_seconds == 1.0


def test_a_row_survives_its_file(bench: Any, rows: dict[str, Any], tmp_path: Path) -> None:
    bench.report.write_json(tmp_path / "row.json", asdict(rows["gated"]))
    assert bench.running.Row.read(tmp_path / "row.json") == rows["gated"]


def test_tables_have_one_line_a_row(bench: Any, rows: dict[str, Any]) -> None:
    text = bench.comparison.pipelines_table(list(rows.values()))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])} and len(lines) == 5
    gated = dict(zip(lines[0], lines[3], strict=True))
    assert gated["multiply-adds"] == "400 (40.0 %)" and gated["× dense"] == "0.80" and gated["× peer"] == "0.50"
    assert gated["branches"] == "1 of 3" and gated["latency of batch 1 (over multiply-adds)"] == "0.60 (1.50)"

    deeper = replace(rows["gated"], net="resnet14", branches=(3, 6), seed=1)
    lines = bench.comparison.depths_table([rows["gated"], deeper, replace(deeper, branches=(1, 6))]).splitlines()
    assert len(lines) == 2 + 2 + 3 and "| 2.0 |" in lines[-1]


def test_times_are_taken_in_turn(bench: Any) -> None:
    calls: list[str] = []
    pair = bench.timing.in_turn(lambda: calls.append("a"), lambda: (calls.append("b"), time.sleep(2e-3)), 2, calls=3)
    assert calls == (["a"] * 3 + ["b"] * 3) * 3  # one block to warm up
    assert pair.ms >= 2 and pair.ratio > 1


def test_the_step_benchmark_leaves_the_gates_where_they_are(bench: Any) -> None:
    net = bp.networks.resmlp(depth=2, width=8)
    options = SimpleNamespace(slab="point", blocks=1, steps=4, every=2)
    plain_net = copy.deepcopy(bench.step.without_gates(net))
    plain, gated, ratio = bench.step.compare(plain_net, net, bench.step.digits(8), options)
    assert plain > 0 and ratio == pytest.approx(gated / plain)  # of a single block
    # Four moves, each of at most ten times 2 * 5 / (0.55 * 0.35e9): steps on a gradient ten times its noise or price.
    assert all(abs(float(gate.theta.detach()) - 0.9) < 1e-5 for gate in bp.layers.gates_of(net).values())


def test_selection_tables_hold_every_method(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(problem: Any, setting: Any) -> torch.Tensor:
        return bp.selection.enumerate_models(problem.x, problem.y, **vars(setting)).inclusion

    def empty(problem: Any, setting: Any) -> torch.Tensor:
        return torch.zeros(len(problem.support))

    methods = {"mean field": bench.selection.METHODS["mean field"], "exact": exact}
    rows = [line.strip("| ").split(" | ") for line in bench.selection.deviation_table(methods, range(3)).splitlines()]
    assert rows[0] == ["inputs", "mean field: mean", "mean field: largest", "exact: mean", "exact: largest"]
    assert rows[2] == ["orthogonal", *["0.000"] * 4]  # where mean field is exact
    assert [row[3:] for row in rows[3:]] == [["0.000"] * 2] * 4
    means = [float(row[1]) for row in rows[2:]]
    assert means == sorted(means) and means[-1] > 0.1

    monkeypatch.setattr(bench.selection, "WIDE", ((120, 0.0),))
    oracle = {"truth": lambda problem, setting: problem.support.double(), "empty": empty}
    assert bench.selection.recovery_table(oracle, range(2)).splitlines()[2:] == [
        "| 120 | 0.0 | 1.00 | 0.00 | 0.00 | 0.00 |"
    ]


def test_methods_that_select_columns_are_measured_once_and_shown_with_intervals(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def first(problem: Any) -> torch.Tensor:
        calls.append("first")
        return torch.arange(6) < 4 + 2 * (len(calls) % 2)  # six of six, then four

    methods = {"truth": lambda problem: problem.support, "first": first}
    monkeypatch.setattr(bench.friedman, "METHODS", methods)
    for seeds in ("1", "2"):
        monkeypatch.setattr("sys.argv", ["friedman.py", "--inputs", "6", "--seeds", seeds, "--out", str(tmp_path)])
        bench.friedman.main()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert len(calls) == 2
    # Of two shares the standard error is half their difference, and Student's quantile for one degree is 12.7.
    assert lines[0][:5] == ["6", "truth", "2", "1.00 (1.00 to 1.00)", "0.00 (0.00 to 0.00)"]
    assert lines[1][:5] == ["6", "first", "2", "0.90 (0.00 to 1.00)", "0.08 (0.00 to 1.00)"]
    four = bench.friedman.interval([0.5, 0.6, 0.7, 0.6])
    assert four == "0.60 (0.47 to 0.73)"  # 3.182 standard errors of 0.0816 / 2


def test_orthogonal_inputs_are_standardised(bench: Any) -> None:
    problem = bench.selection.orthogonal(60, 5, 2, effect=0.3, seed=0)
    torch.testing.assert_close(problem.x.T @ problem.x, 60 * torch.eye(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(problem.x.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    noise = problem.y - problem.x @ problem.coefficients
    assert 0.7 < noise.std() < 1.3 and int(problem.support.sum()) == 2
