"""A comparison that is broken off goes on; what was frozen cannot be changed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bayesprune.comparison import Row
from bayesprune.comparison.measuring import Clock
from bayesprune.comparison.rows import read_csv
from bayesprune.errors import CheckpointError, ConfigError, NonFiniteLossError
from bayesprune.training import EpochRow
from tests.comparison.toys import compared, settings, settled

PLAN = settings(methods={"l1_filters": {}})


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
    path = copied / "frozen.json"
    said = json.loads(path.read_text())
    said["chosen"]["planted-planted"]["l1_filters"]["options"] = {"lr": 2.0}
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
    with pytest.raises(ConfigError, match="a comparison by other settings"):
        compared(copied, PLAN | {"seeds": [0, 3]})


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
