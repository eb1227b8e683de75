"""A comparison that is broken off goes on; what was frozen cannot be changed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from bayesprune import layers
from bayesprune.comparison import Row, compare
from bayesprune.comparison.crew import _end_with_parent
from bayesprune.comparison.measuring import Clock
from bayesprune.comparison.running import _unfair
from bayesprune.errors import CheckpointError, ConfigError, FileError, NonFiniteLossError
from bayesprune.training import EpochRow
from tests.comparison.toys import PIXELS, compared, read_csv, settings, settled, splits

PLAN = settings(methods={"l1_filters": {}})
FROZEN = "frozen/planted-planted/l1_filters/x1.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that was not broken off."""
    out = tmp_path_factory.mktemp("whole")
    compared(out, PLAN)
    return out


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def rows_of(out: Path) -> str:
    """The rows of a comparison, but for what differs from one time to the next."""
    return repr(settled(read_csv(out / "rows.csv")))


@pytest.mark.parametrize("after", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_after_an_interrupt_between_two_runs_the_rows_are_the_same(whole: Path, tmp_path: Path, after: int) -> None:
    ended = []

    def interrupt(row: Row, done: int, count: int) -> None:
        ended.append(row)
        if len(ended) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path, PLAN, on_row=interrupt)
    compared(tmp_path, PLAN)
    assert rows_of(tmp_path) == rows_of(whole)


def test_after_an_interrupt_within_a_run_the_rows_are_the_same(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, keep = [], Clock.__call__

    def interrupt(clock: Clock, row: EpochRow) -> None:
        keep(clock, row)
        calls.append(row)
        if len(calls) in (3, 7):  # an epoch of the tuning stage, and one of the test stage
            raise KeyboardInterrupt

    monkeypatch.setattr(Clock, "__call__", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compared(tmp_path, PLAN)
    compared(tmp_path, PLAN)
    assert rows_of(tmp_path) == rows_of(whole)
    assert not [*tmp_path.rglob("checkpoint.pt")]


def test_options_that_were_changed_after_they_were_frozen_are_refused(copied: Path) -> None:
    path = copied / FROZEN
    said = json.loads(path.read_text())
    said["chosen"]["options"] = {"lr": 2.0}
    path.write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="was changed after the options were chosen"):
        compared(copied, PLAN)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        compared(copied, PLAN)


def test_rows_that_other_options_led_to_are_refused(copied: Path) -> None:
    path = next((copied / "test").rglob("row.json"))
    path.write_text(path.read_text().replace('"settings": "', '"settings": "0'))
    with pytest.raises(CheckpointError, match="was made by other settings"):
        compared(copied, PLAN)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="is damaged"):
        compared(copied, PLAN)


def test_a_folder_holds_one_comparison(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"a comparison by other settings.*differ in seeds: 0, 1 there, 0, 3 here$"):
        compared(copied, PLAN | {"seeds": [0, 3]})
    (copied / "plan.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"plan\.json is damaged"):
        compared(copied, PLAN)


def wider(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The planted network with another width."""
    return nn.Sequential(nn.Flatten(), layers.Linear(PIXELS, 32, gate="unit"), nn.ReLU(), nn.Linear(32, classes))


def test_other_data_and_networks_of_the_same_names_are_refused(copied: Path) -> None:
    rows, other = (copied / "rows.csv").read_bytes(), splits()
    other.test.labels[0] += 1
    with pytest.raises(ConfigError, match="where the data of planted-planted was another"):
        compared(copied, PLAN, data=other)
    with pytest.raises(ConfigError, match="where the network of planted-planted was another"):
        compare(PLAN, out=copied, networks={"planted": wider}, data={"planted": splits()})
    (copied / "material.json").unlink()
    with pytest.raises(ConfigError, match=r"x1\.json is that of other settings, data or networks"):
        compared(copied, PLAN, data=other)
    (copied / "material.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"material\.json is damaged"):
        compared(copied, PLAN)
    assert (copied / "rows.csv").read_bytes() == rows


def test_a_run_that_another_process_makes_is_no_row(copied: Path) -> None:
    """What a worker leaves that outlives its comparison: it is waited for, and then the row is made."""
    folder = copied / "test/planted-planted/l1_filters/macs=0.5/x1/seed0"
    (folder / "row.json").unlink()
    hold = "import sys, time; from pathlib import Path; from filelock import FileLock\n"
    hold += "with FileLock(sys.argv[1]): print(flush=True); time.sleep(60)"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{hold}", str(folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError, match="another process is training in"):
            compared(copied, PLAN)
        holder.kill()
    assert not (folder / "row.json").exists()
    assert [row.error for row in compared(copied, PLAN).rows] == [""] * 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), CheckpointError("damaged")])
def test_what_passes_with_its_cause_is_no_row(
    copied: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    path = copied / "test/planted-planted/l1_filters/macs=0.5/x1/seed0/row.json"
    path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("bayesprune.comparison.running.train", fail)
        with pytest.raises((FileError, CheckpointError)):
            compared(copied, PLAN)
    assert not path.exists()
    compared(copied, PLAN)
    assert rows_of(copied) == rows_of(whole)


def test_a_run_that_misses_its_goal_or_takes_too_much_counts_as_guessing(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in copied.glob("test/*/l1_filters/*/*/*/row.json"):
        path.unlink()
    monkeypatch.setattr(
        "bayesprune.comparison.running._unfair", lambda run, *_: _unfair(run, (0.8, 0.5)[run.seed], 2.0)
    )
    rows = compared(copied, PLAN).rows
    assert [(row.accuracy, row.nll) for row in rows] == [(0.25, math.log(4))] * 2
    assert (
        "asked for 0.5; allowed are 0.45 to 0.505" in rows[0].error
        and "took 2.000 times what a dense run computes" in rows[1].error
    )


@pytest.mark.parametrize(
    ("error", "said", "accuracy"),
    [
        (MemoryError("too much\nof it"), "MemoryError: too much of it", math.nan),
        (NonFiniteLossError("the training loss was nan"), "the training loss was nan", 0.25),
    ],
)
def test_a_run_that_fails_leaves_a_row_and_one_that_diverges_is_at_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, accuracy: float
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("bayesprune.comparison.running.train", fail)
    rows = compared(tmp_path, PLAN).rows
    assert [row.error for row in rows] == [said] * 2
    assert [row.accuracy for row in rows] == pytest.approx([accuracy] * 2, nan_ok=True)


SCRIPT = """
import sys
from tests.comparison.toys import compared, settings
if __name__ == "__main__":
    plan = settings(methods={"l1_filters": {}, "random_structures": {}}, seeds=[0, 1], tasks=[
        {"net": "planted", "data": "planted", "epochs": 20}])
    compared(sys.argv[1], plan, workers=int(sys.argv[2]), on_row=lambda row, done, count: print(done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_after_a_signal_the_csv_is_the_same(tmp_path: Path, workers: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]

    def start(folder: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(root)}
        command = [sys.executable, str(script), str(tmp_path / folder), workers]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)

    with start("broken") as broken:
        assert broken.stdout is not None
        for _ in range(5):
            broken.stdout.readline()
        time.sleep(0.3)
        broken.send_signal(signal.SIGINT)
        assert broken.wait(timeout=300) != 0
    for folder in ("broken", "whole"):
        with start(folder) as process:
            assert process.communicate(timeout=600)[0]
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")


def test_a_worker_whose_parent_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    parent = SimpleNamespace(join=lambda: said.append("waited"))
    monkeypatch.setattr("multiprocessing.parent_process", lambda: parent)
    monkeypatch.setattr("os._exit", said.append)
    _end_with_parent()
    assert said == ["waited", 1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are looked up in /proc")
def test_workers_end_with_a_comparison_that_is_killed(tmp_path: Path) -> None:
    """Else they train on in the folders of their runs, and the comparison that goes on cannot."""
    script, root = tmp_path / "script.py", Path(__file__).parents[2]
    script.write_text(SCRIPT)
    command, environment = [sys.executable, str(script), str(tmp_path / "out"), "2"], {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        process.kill()
    end = time.monotonic() + 60
    while any(running(child) for child in children):
        assert time.monotonic() < end, "a worker outlives its comparison"
        time.sleep(0.1)


def running(process: str) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
