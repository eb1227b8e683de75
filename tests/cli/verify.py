"""What every command must do: end as it should, and when it refuses, say so in one line and leave nothing behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from bayesprune.cli.commands import app
from bayesprune.cli.progress import Display
from bayesprune.training import EpochRow
from bayesprune.training.checkpoint import read_checkpoint

TINY = ("--epochs", "6", "--limit", "600", "--batch-size", "16", "--lr", "0.02", "--log-gamma", "0.2")
"""Options of a run of a second in which gates settle in the second epoch and are removed in the third."""


KILLED = """
import os, signal
from bayesprune.cli import main
from bayesprune.training.trainer import Trainer
train_step = Trainer.train_step
def step(self, batch):
    if self.epoch == {epochs} and self.step == {epochs} * self.steps_per_epoch + {steps}:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(self, batch)
Trainer.train_step = step
main()
"""


def run(*args: str | Path) -> Result:
    """The result of ``bayesprune ARGS``, in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bayesprune")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def verify_done(*args: str | Path) -> str:
    """The command ends well, says nothing on stderr, and prints what this returns."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def verify_refused(*args: str | Path, says: tuple[str, ...], code: int = 2) -> None:
    """The command ends with ``code`` and one line of error on stderr that holds all of ``says``."""
    result = run(*args)
    assert result.exit_code == code, result.output
    *_, line = result.stderr.splitlines()
    assert result.stderr.count("error: ") == 1
    assert line.startswith("error: ")
    for part in says:
        assert part in line
    assert "Traceback" not in result.output


def listing(folder: Path) -> list[str]:
    """Everything below ``folder``."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def kill(*args: str | Path, epochs: int, steps: int) -> None:
    """Start ``bayesprune ARGS`` in a process of its own that is killed after so many epochs and steps of the next."""
    command = [sys.executable, "-c", KILLED.format(epochs=epochs, steps=steps), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert process.returncode == -signal.SIGKILL, process.stderr


def start_and_stop(*options: str, folder: Path, epoch: int) -> None:
    """Start ``bayesprune train OPTIONS --out FOLDER`` in this process, and stop it when ``epoch`` is done."""

    class Stopped(Exception):
        pass

    def stop(self: Display, row: EpochRow) -> None:
        if row.epoch == epoch:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "__call__", stop)
        with pytest.raises(Stopped):
            run("train", *options, "--out", folder)


def write_images(folder: Path, size: int, classes: int, train: int = 1, test: int = 1) -> str:
    """Write so many images of every class, each class of another colour in noise; returns the name of the data set."""
    from torchvision.utils import save_image

    colours = torch.eye(3).repeat(1 + classes // 3, 1)
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            path = folder / split / f"class{label:02d}"
            path.mkdir(parents=True)
            for number in range(count):
                image = 0.9 * torch.rand(3, size, size) + 0.1 * colours[label][:, None, None]
                save_image(image, path / f"{number:03d}.png")
    return f"imagefolder:{folder}"


def numbers(folder: Path) -> dict[str, object]:
    """``result.json`` and ``history.csv`` without durations and the run's identity, and ``removals.csv``."""
    result = json.loads((folder / "result.json").read_text())
    for name in ("run", "seconds", "epoch_seconds_first", "epoch_seconds_last"):
        result.pop(name)
    history = table(folder / "history.csv")
    for row in history:
        row.pop("seconds")
    return {"result": result, "history": history, "removals": table(folder / "removals.csv")}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def verify_same_end(resumed: Path, unbroken: Path) -> None:
    """Both runs ended with the same numbers, files and tensors."""
    assert listing(resumed) == listing(unbroken)
    assert numbers(resumed) == numbers(unbroken)
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (resumed, unbroken))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    assert (
        read_checkpoint(resumed / "checkpoint.pt")["origin"].keys()
        == read_checkpoint(unbroken / "checkpoint.pt")["origin"].keys()
    )
