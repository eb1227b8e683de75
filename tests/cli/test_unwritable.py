"""Places that cannot be written to, and memory that runs out: one line, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bayesprune.cli.progress import Display
from bayesprune.training import EpochRow
from bayesprune.training.checkpoint import read_checkpoint
from bayesprune.training.trainer import Trainer
from tests.cli.verify import TINY, listing, run, verify_done, verify_refused, verify_same_end


def options(**changes: object) -> Callable[[dict], None]:
    return lambda record: record["options"].update(changes)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 900 kB, where this process may mount one: room for one checkpoint of this run, not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(small_disk: Path, tmp_path: Path):
    options = ("--limit", "300", "--epochs", "4", "--seed", "3")
    folder = small_disk / "run"
    says = (f"cannot write {folder / 'checkpoint.pt'}", "No space left on device", f"train --resume {folder}")
    verify_refused("train", *options, "--out", folder, says=says)
    assert listing(folder) == ["checkpoint.pt", "config.json", "history.csv"]
    assert read_checkpoint(folder / "checkpoint.pt")["epoch"] == 1
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    verify_done("train", "--resume", elsewhere)
    verify_done("train", *options, "--out", tmp_path / "unbroken")
    verify_same_end(elsewhere, tmp_path / "unbroken")


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors", "gates.png", "result.json"])
def test_a_file_that_cannot_be_written_is_one_line(finished: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (finished / "result.json").unlink()
    if name == "checkpoint.pt":
        (finished / name).unlink()
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    replace = os.replace

    def fail(source: str, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        verify_refused("train", "--resume", finished, says=(f"cannot write {finished / name}", "Input/output"))
    left = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert left.keys() == before.keys()
    assert left.get(name) == before.get(name)


@pytest.mark.parametrize(("command", "figure"), [("inspect", "464"), ("evaluate", "accuracy")])
def test_figures_are_printed_where_no_picture_can_be_written(
    finished: Path, command: str, figure: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.replace", fail)
    result = run(command, finished)
    assert (result.exit_code, figure in result.stdout) == (2, True)
    assert result.stderr.startswith("error: no picture: cannot write ")


def test_a_folder_that_moves_away_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def move(self: Display, row: EpochRow) -> None:
        if row.epoch == 2:
            folder.rename(moved)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "__call__", move)
        says = (f"cannot write {folder}", "it may have been moved or deleted")
        verify_refused("train", *TINY, "--seed", "3", "--out", folder, says=says)
    assert not folder.exists()
    assert read_checkpoint(moved / "checkpoint.pt")["epoch"] == 2
    verify_done("train", "--resume", moved)


def test_a_new_folder_in_the_place_of_one_that_moved_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def move(*_: object, **__: object) -> None:
        folder.rename(moved)
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("bayesprune.cli.run.fit", move)
    verify_refused("train", *TINY, "--out", folder, says=("full",))
    assert (folder / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("message", ["could not create a primitive", "[enforce fail] DefaultCPUAllocator: not enough"])
def test_memory_that_runs_out_anywhere_is_one_line(finished: Path, monkeypatch: pytest.MonkeyPatch, message: str):
    def fail(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("bayesprune.cli.finished.cost", fail)
    verify_refused("evaluate", finished, says=("out of memory", message))


def test_another_error_is_not_taken_for_memory(finished: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("bayesprune.cli.finished.cost", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        run("evaluate", finished)


def test_memory_errors_of_onednn_name_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(Trainer, "train_step", fail)
    says = ("a batch of 16 examples", "try --batch-size 8", "could not create a primitive")
    verify_refused("train", *TINY, "--out", tmp_path / "run", says=says)
    assert listing(tmp_path) == []
