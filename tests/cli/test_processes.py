"""Several processes: only one speaks, and together they do what one does."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from bayesprune.cli.errors import PATIENCE
from bayesprune.errors import ConfigError
from tests.cli.verify import listing, numbers, run, table, verify_done, verify_refused

ROOT = Path(__file__).parents[2]
SHARED = ("train", "--epochs", "4", "--limit", "300", "--batch-size", "15", "--log-gamma", "0.2")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let this process be the second on its machine; how long it waits for the first is noted, not waited for."""
    naps: list[float] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("bayesprune.cli.errors.time.sleep", naps.append)
    return naps


def test_an_error_is_left_to_the_first_process(second: list[float], tmp_path: Path):
    verify_refused("train", "--epochs", "0", "--out", tmp_path / "run", says=("--epochs",))
    assert second == [PATIENCE]


def test_a_wrong_option_is_left_to_the_first_process(second: list[float]):
    assert run("train", "--epocs", "3").exit_code == 2
    assert second == [PATIENCE]


def test_an_interruption_is_left_to_the_first_process(second: list[float], monkeypatch: pytest.MonkeyPatch):
    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bayesprune.cli.commands.inspect_gates", interrupt)
    result = run("inspect", "folder")
    assert (result.exit_code, result.output, second) == (130, "", [])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("rank", "lines"), [("0", ["warning: careful", "error: no"]), ("1", ["error: no"])])
def test_warnings_are_left_to_the_first_process(
    second: list[float], monkeypatch: pytest.MonkeyPatch, rank: str, lines: list[str]
):
    def warn(folder: Path) -> None:
        warnings.warn("careful", stacklevel=1)
        raise ConfigError("no")

    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("bayesprune.cli.commands.inspect_gates", warn)
    assert run("inspect", "folder").stderr.splitlines() == lines


def test_the_first_process_does_not_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("bayesprune.cli.errors.time.sleep", lambda seconds: pytest.fail("waited"))
    verify_refused("train", "--epochs", "0", says=("--epochs",))


def test_python_m_bayesprune_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["bayesprune", "train", "--epochs", "0"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("bayesprune", run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: --epochs must be a whole number, from 1 to")


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path):
    """Up to rounding; the same structures are removed at the same steps. One process can take the run up."""
    one, two = tmp_path / "one", tmp_path / "two"
    verify_done(*SHARED, "--out", one)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "bayesprune", *SHARED, "--out", two],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line[:9] for line in done.stdout.splitlines() if line.startswith("epoch")] == [
        f"epoch {epoch}/4" for epoch in (1, 2, 3, 4)
    ]
    assert done.stdout.count("results: ") == 1
    assert "warning: " not in done.stderr
    verify_same_up_to_rounding(one, two)

    (two / "result.json").unlink()
    resumed = run("train", "--resume", two)
    assert resumed.exit_code == 0
    assert resumed.stderr.startswith("warning: ")
    assert "written by 2 processes and is taken up by 1" in resumed.stderr
    verify_same_up_to_rounding(one, two, processes=1)


def verify_same_up_to_rounding(one: Path, two: Path, processes: int = 2) -> None:
    """The run in ``two`` did what the one in ``one`` did."""
    assert listing(one) == listing(two)
    expected, found = numbers(one)["result"], numbers(two)["result"]
    assert found.pop("processes") == processes and expected.pop("processes") == 1
    for name in ("nll", "brier", "ece"):
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-5)
    for theirs, ours in zip(found.pop("reliability"), expected.pop("reliability"), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    assert found == expected
    records = [json.loads((folder / "config.json").read_text()) for folder in (one, two)]
    (name, digest), (other, same) = (record.pop("run").split("-") for record in records)
    assert name != other and digest == same  # two runs with the same options
    assert records[0] == records[1]
    removed = [[(r["step"], r["gate"], r["index"]) for r in table(folder / "removals.csv")] for folder in (one, two)]
    assert removed[0] == removed[1]
    assert removed[0]
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
