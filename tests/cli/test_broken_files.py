"""Files that are not what they should be, and places that cannot be written to: one line, and nothing is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bayesprune.cli.commands import app
from bayesprune.cli.config import resolve
from bayesprune.cli.encoding import PLAIN, write_what_can_be_written
from bayesprune.cli.folder import free_folder
from bayesprune.cli.progress import Display
from bayesprune.cli.record import LARGEST
from bayesprune.cli.run import prepare
from bayesprune.pruning import gates_left
from bayesprune.training import EpochRow
from bayesprune.training.checkpoint import read_checkpoint
from bayesprune.training.trainer import Trainer
from tests.cli.verify import TINY, listing, run, table, verify_done, verify_refused, verify_same_end

LONG = "n" * 300


def options(**changes: object) -> Callable[[dict], None]:
    return lambda record: record["options"].update(changes)


def without(key: str) -> Callable[[dict], None]:
    return lambda record: record.pop(key)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (options(epochs="6"), ("options.epochs: expected a whole number", "found '6'")),
        (options(epochs=6.5), ("options.epochs: expected a whole number", "found 6.5")),
        (options(epochs=True), ("options.epochs", "found True")),
        (options(epochs=None), ("options.epochs", "found None")),
        (options(epochs=0), ("--epochs must be a whole number, from 1 to 2147483647, got 0",)),
        (options(epochs=10**15), ("--epochs must be a whole number, from 1 to 2147483647, got 1000",)),
        (options(seed=10**23), ("options.seed: expected a whole number", "found 1000")),
        (options(seed=2**63), ("--seed must be a whole number, from 0 to 9223372036854775807",)),
        (options(lr="fast"), ("options.lr: expected a number", "'fast'")),
        (options(lr=10**400), ("options.lr: expected a number", "found 1000")),
        (options(net=3), ("options.net: expected a text, found 3",)),
        (options(net=[["lenet300"]]), ("options.net: expected a text",)),
        (options(compile="no"), ("options.compile: expected true or false",)),
        (options(limit="all"), ("options.limit: expected a whole number",)),
        (options(colour="red"), ("only the keys", "'colour'")),
        (options(slab="brick"), ("--slab brick: unknown",)),
        (without("options"), ("options: expected a value",)),
        (without("input_shape"), ("input_shape: expected a value",)),
        (lambda record: record.update(input_shape=[]), ("input_shape: expected a list",)),
        (lambda record: record.update(input_shape=[1, 8.0]), ("input_shape[1]: expected a whole number",)),
        (lambda record: record.update(input_shape=[0]), ("input_shape[0]: expected a whole number from 1",)),
        (lambda record: record.update(input_shape=[2**20, 2**20]), ("numbers an example",)),
        (lambda record: record.update(run=7), ("run: expected a text",)),
    ],
)
def test_a_config_of_wrong_values_is_refused(finished: Path, change: Callable[[dict], None], says: tuple[str, ...]):
    config = finished / "config.json"
    record = json.loads(config.read_text())
    change(record)
    config.write_text(json.dumps(record))
    for command in (("train", "--resume", finished), ("evaluate", finished)):
        verify_refused(*command, says=(str(config), "is damaged", *says))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b"9" * 5_000, "4300 digits"),
        (b'{"options": NaN}', "finite numbers, found 'NaN'"),
        (b'{"options": {"lr": -Infinity}}', "finite numbers, found '-Infinity'"),
        (b"null", "a table with the keys options, input_shape"),
        (b" " * (LARGEST + 1), "bytes"),
    ],
)
def test_a_config_that_is_no_record_is_refused(finished: Path, content: bytes, says: str):
    (finished / "config.json").write_bytes(content)
    verify_refused("evaluate", finished, says=("config.json is damaged", says))


def test_infinities_in_a_config_are_refused(finished: Path):
    config = finished / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"lr": 0.02', '"lr": 1e999'))
    verify_refused("evaluate", finished, says=("config.json is damaged", "--lr must be positive and finite, got inf"))
    shape = json.dumps(json.loads(text)["input_shape"], indent=2).replace("\n", "\n  ")
    config.write_text(text.replace(shape, "[1e999]"))
    verify_refused("evaluate", finished, says=("config.json is damaged", "input_shape[0]: expected a whole", "inf"))


@pytest.mark.parametrize("seed", ["12345678901234567890123", str(2**63)])
def test_a_seed_of_too_many_bits_is_refused(seed: str, tmp_path: Path):
    verify_refused(
        "train", "--seed", seed, "--out", tmp_path / "run", says=("--seed must be a whole number, from 0", "63 bits")
    )
    assert listing(tmp_path) == []


def test_the_largest_seed_is_taken():
    ready = prepare(resolve({"seed": 2**63 - 1, "limit": 64}))
    assert len(next(iter(ready.train_loader))[0]) == 64


@pytest.mark.parametrize(("option", "value"), [("--epochs", 10**30), ("--batch-size", 2**31), ("--every", 10**400)])
def test_counts_that_are_too_large_are_refused(option: str, value: int, tmp_path: Path):
    verify_refused(
        "train",
        option,
        str(value),
        "--out",
        tmp_path / "run",
        says=(f"{option} must be a whole number, from 1 to 2147",),
    )


def test_a_depth_that_cannot_be_built_is_refused(tmp_path: Path):
    for digits in (5, 5_000):
        name = "resmlp" + "9" * digits
        verify_refused("train", "--net", name, "--out", tmp_path / "run", says=("a depth of at most 9999",))


def test_names_that_are_too_long_are_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    for command in (
        ("train", *TINY, "--out", LONG),
        ("train", *TINY, "--out", f"deep/{LONG}"),
        ("train", "--resume", LONG),
        ("train", "--data", "mnist", "--data-dir", LONG),
        ("train", "--data", f"imagefolder:{LONG}"),
        ("inspect", LONG),
        ("evaluate", LONG),
        ("export", finished, "--format", "safetensors", "--out", LONG),
        ("export", finished, "--format", "torch", "--out", f"{LONG}.pt2"),
    ):
        verify_refused(*command, says=("File name too long",))
    assert listing(tmp_path) == before


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


def test_one_count_of_the_gates_that_are_left(tmp_path: Path):
    """Line, row, table and result agree where some gates are off that were not removed."""
    folder = tmp_path / "run"
    lines = verify_done("train", *TINY, "--epochs", "4", "--seed", "3", "--out", folder).splitlines()
    state = read_checkpoint(folder / "checkpoint.pt")
    left = sum(gates_left(path[-1]) for path in state["history"]["thetas"].values())
    assert left < sum(len(origin) for origin in state["origin"].values())
    (last,) = (line for line in lines if line.startswith("epoch 4/4"))
    assert f"gates {left}  " in last
    assert json.loads((folder / "result.json").read_text())["gates_left"] == left
    assert table(folder / "history.csv")[-1]["gates_left"] == str(left)
    (everything,) = (line.split() for line in verify_done("inspect", folder).splitlines() if " all " in line)
    assert everything[1:3] == ["464", str(left)]


def test_a_second_run_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    first = Path("runs/lenet300-digits-seed8")
    for number in (1, 2):
        printed = verify_done("train", *TINY, "--epochs", "1", "--seed", "8")
        name = f"{first}-{number}" if number > 1 else str(first)
        assert printed.splitlines()[-1] == f"results: {name}"
        assert (f"{first} holds a run already; this one goes to {name}" in printed) == (number > 1)
    assert listing(tmp_path / first) == listing(tmp_path / f"{first}-2")


def test_the_first_free_folder(tmp_path: Path):
    wanted = tmp_path / "run"
    assert free_folder(wanted) == wanted
    wanted.mkdir()
    assert free_folder(wanted) == wanted
    (wanted / "mine").touch()
    (tmp_path / "run-2").touch()
    assert free_folder(wanted) == tmp_path / "run-3"


def test_smoothed_labels_are_named_where_calibration_is_printed(finished: Path, tmp_path: Path):
    said = "labels were smoothed by 0.05: "
    assert said in verify_done("evaluate", finished)
    assert said not in verify_done("evaluate", finished, "--json")
    plain = verify_done("train", *TINY, "--epochs", "1", "--label-smoothing", "0", "--out", tmp_path / "plain")
    assert "labels were smoothed" not in plain


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_everything_can_be_written_in_any_encoding(finished: Path, encoding: str, monkeypatch: pytest.MonkeyPatch):
    for command, says in (
        (["inspect", str(finished)], "lowest theta"),
        (["evaluate", str(finished)], "calibration error"),
        (["train", "--help"], "--weight-decay"),
        (["inspect", "θ→∀"], "error: no checkpoint at theta"),
    ):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            write_what_can_be_written()
            with pytest.raises(SystemExit):
                app(command, prog_name="bayesprune")
        text = ""
        for stream in streams.values():
            stream.flush()
            text += stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert says in text


def test_plain_characters_are_plain():
    assert all(value.isascii() for value in PLAIN.values())
    assert all(len(key) == 1 and not key.isascii() for key in PLAIN)


def test_memory_errors_of_onednn_name_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(Trainer, "train_step", fail)
    says = ("a batch of 16 examples", "try --batch-size 8", "could not create a primitive")
    verify_refused("train", *TINY, "--out", tmp_path / "run", says=says)
    assert listing(tmp_path) == []
