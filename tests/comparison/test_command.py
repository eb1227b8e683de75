"""`bayesprune compare`: what it takes, what it leaves, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bayesprune.cli import commands
from bayesprune.comparison import ComparisonResult
from bayesprune.comparison.material import Material
from bayesprune.comparison.plan import Task
from bayesprune.data import Splits
from bayesprune.errors import DataError
from tests.comparison.toys import read_csv

SETTINGS = """
title = "a"
seeds = [1]
macs = [0.5]
compute = [1]
[tuning]
trials = 1
seed = 2
[[tasks]]
net = "lenet300"
data = "digits"
limit = 60
epochs = 2
[methods.none]
[methods.l1_filters]
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text(SETTINGS)
    return "a.toml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.app, ["compare", *arguments])


def test_how_many_runs_there_are_is_said_beforehand(settings: str) -> None:
    said = run(settings, "--dry-run")
    assert said.exit_code == 0, said.output
    # tuning 2 and pacing 1; test 2; 3 passes of 54 examples in tuning were 60 in the estimate, each 64*300+300*100+1000
    assert said.output.splitlines()[0] == "runs on held-out training data: 3; runs that are compared: 2"
    macs = 5 * 3 * 60 * 2 * (64 * 300 + 300 * 100 + 100 * 10)
    assert f"about {macs:.2g} multiply-adds" in said.output
    assert not Path("comparison").exists()


def test_runs_are_counted_without_the_data_and_the_way_without_them_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The quick settings have MNIST, which may not be there."""

    def absent(self: Material, task: Task) -> Splits:
        raise DataError("mnist: the download failed")

    monkeypatch.setattr(Material, "splits", absent)
    said = run("--quick", "--dry-run", "--data-dir", str(tmp_path))
    assert said.exit_code == 0, said.output
    counts, tasks, why = said.output.splitlines()
    assert counts.startswith("runs on held-out training data: ")
    assert tasks == "tasks: lenet300 on digits, 30 epochs; lenet300 on mnist, 10 epochs"
    assert "mnist: the download failed. To compare without these, copy " in why and "quick.toml, take" in why


def test_tables_are_printed_as_json_and_all_else_aside(settings: str) -> None:
    ahead = json.loads(run(settings, "--dry-run", "--json").stdout)
    macs = 5 * 3 * 60 * 2 * (64 * 300 + 300 * 100 + 100 * 10)
    assert (ahead["held_out_runs"], ahead["compared_runs"], ahead["refused"]) == (3, 2, [])
    assert ahead["macs"] == pytest.approx(macs) and ahead["tasks"] == [
        {"net": "lenet300", "data": "digits", "epochs": 2}
    ]
    done = run(settings, "--methods", "none", "--out", "out", "--json")
    told = json.loads(done.stdout)
    (row,), (line,) = read_csv(Path("out/rows.csv")), told["lines"]
    assert (told["title"], told["failures"]) == ("a", [])
    assert (line["accuracy"], line["accuracy_half"], line["nll"]) == (row.accuracy, None, row.nll)
    assert (line["method"], line["runs"], line["failed"], line["macs_left"]) == ("none", 1, 0, 1.0)
    assert "test 1/1" in done.stderr and "results: " in done.stderr
    assert json.loads(run("--out", "out", "--so-far", "--json").stdout) == told


def test_one_method_is_compared_and_the_folder_is_not_taken_twice(settings: str) -> None:
    done = run(settings, "--methods", "none", "--out", "out")
    assert done.exit_code == 0, done.output
    assert "test 1/1  lenet300-digits none x1 seed 1: accuracy" in done.output and "| dense |" in done.output
    assert [row.method for row in read_csv(Path("out/rows.csv"))] == ["none"]
    table = run("--out", "out", "--so-far")
    assert table.exit_code == 0 and table.output.strip() in done.output and "| dense |" in table.output
    ComparisonResult.read("out").html("again.html")
    assert Path("again.html").read_text() == Path("out/comparison.html").read_text()
    assert ComparisonResult.read("out").chosen["lenet300-digits"]["none"]["options"] == {}
    again = run(settings, "--methods", "none", "--out", "out")
    assert again.exit_code == 2 and "exists and is not empty" in again.output
    assert "with the same command and --resume" in " ".join(again.output.split())
    assert run(settings, "--methods", "none", "--out", "out", "--resume").exit_code == 0
    other = run(settings, "--out", "out", "--resume")
    assert other.exit_code == 2 and "a comparison by other settings" in other.output
    assert "methods: none there, l1_filters, none here" in " ".join(other.output.split())


def test_runs_that_came_to_nothing_are_listed_also_so_far(settings: str) -> None:
    assert run(settings, "--methods", "none", "--out", "out").exit_code == 0
    path = next(Path("out/test").rglob("row.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"error": "left 0.6", "accuracy": 0.1}))
    said = run("--out", "out", "--so-far")
    assert said.exit_code == 0 and "10.00 (guessing)" in said.output
    assert said.output.endswith("runs that came to nothing:\n1 × lenet300-digits, none: left 0.6\n")
    assert len(json.loads(run("--out", "out", "--so-far", "--json").stdout)["failures"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.toml", "--quick"], "leave out --quick or a.toml"),
        (["b.toml"], "cannot read the settings b.toml"),
        (["a.toml", "--methods", "lottery"], "have no method 'lottery'"),
        (["a.toml", "--tasks", "lenet5"], "have no task 'lenet5'"),
        (["a.toml", "--so-far", "--tasks", "lenet300-digits"], "leave out a.toml and --tasks"),
        (["--so-far", "--quick"], "leave out --quick"),
        (["--so-far"], "cannot read comparison/plan.json"),
        (["a.toml", "--workers", "0"], "workers must be a whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused(settings: str, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and said in done.output.replace("\n", " ")
