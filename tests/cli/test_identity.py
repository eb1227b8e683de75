"""The files of a run know each other; those of another run, or of edited options, are refused."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bayesprune.atomic import TEMPORARY
from bayesprune.cli.posterior import read_posterior
from bayesprune.cli.record import identity
from bayesprune.errors import CheckpointError
from bayesprune.pruning import load, read_run, save
from bayesprune.training.checkpoint import read_checkpoint, write_checkpoint
from bayesprune.training.lock import LOCK
from tests.cli.verify import TINY, listing, start_and_stop, verify_done, verify_refused


def edit(path: Path, change: Callable[[dict], None]) -> None:
    """Change a JSON file or a checkpoint."""
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
    else:
        state = read_checkpoint(path)
        change(state)
        write_checkpoint(path, state)


def another(record: dict) -> None:
    record["run"] = "another-run"


def forget(record: dict) -> None:
    del record["run"]


def unfinish(folder: Path) -> None:
    (folder / "result.json").unlink()


def verify_all_refused(folder: Path, *says: str) -> None:
    before = listing(folder)
    for command in (
        ("train", "--resume", folder),
        ("inspect", folder),
        ("evaluate", folder),
        ("export", folder, "--format", "safetensors", "--out", folder / "copy"),
    ):
        verify_refused(*command, says=says)
    assert listing(folder) == before


def test_all_files_of_a_run_hold_one_identity(finished: Path):
    config = json.loads((finished / "config.json").read_text())
    name, digest = config["run"].split("-")
    assert (len(name), len(digest)) == (32, 32)
    assert config["run"] == identity(name, config["options"], config["input_shape"])
    assert read_checkpoint(finished / "checkpoint.pt")["run"] == config["run"]
    assert read_run(finished / "model.safetensors") == config["run"]
    assert json.loads((finished / "result.json").read_text())["run"] == config["run"]


def test_the_digest_is_of_what_is_computed():
    options = {"seed": 3, "data_dir": "here", "lr": 0.1}
    assert identity("n", options, [8]) == identity("n", {"lr": 0.1, "data_dir": "there", "seed": 3}, (8,))
    others = [{**options, "seed": 4}, {**options, "lr": 0.2}, {"seed": 3}]
    assert len({identity("n", o, [8]) for o in (*others, options)} | {identity("n", options, [9])}) == 5


@pytest.mark.parametrize(("option", "value"), [("seed", 4), ("lr", 0.5), ("label_smoothing", 0.5), ("limit", 300)])
def test_edited_options_are_refused(finished: Path, option: str, value: float):
    edit(finished / "config.json", lambda record: record["options"].update({option: value}))
    verify_all_refused(finished, str(finished / "config.json"), "was edited")


def test_a_config_of_another_run_of_the_same_options_is_refused(finished: Path):
    def rename(record: dict) -> None:
        record["run"] = identity("f" * 32, record["options"], record["input_shape"])

    edit(finished / "config.json", rename)
    verify_all_refused(finished, "belongs to another run", "config.json is 'ffff")


def test_a_config_that_forgot_its_run_is_refused(finished: Path):
    edit(finished / "config.json", forget)
    verify_all_refused(finished, "belongs to another run", "config.json is None")


def test_the_checkpoint_of_another_seed_is_refused(finished: Path, tmp_path: Path):
    start_and_stop(*TINY, "--seed", "4", folder=tmp_path / "other", epoch=1)
    shutil.copy(tmp_path / "other" / "checkpoint.pt", finished)
    unfinish(finished)
    before = (finished / "checkpoint.pt").read_bytes()
    verify_refused("train", "--resume", finished, says=(str(finished / "checkpoint.pt"), "belongs to another run"))
    verify_refused("inspect", finished, says=("checkpoint.pt belongs to another run",))
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_the_posterior_of_another_run_is_refused(finished: Path):
    edit(finished / "checkpoint.pt", another)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt belongs to another run: its run is 'another-run'"):
        read_posterior(finished, 10)


def test_the_network_of_another_run_is_refused(finished: Path):
    model = finished / "model.safetensors"
    save(load(model), model, run="another-run")
    verify_refused("evaluate", finished, says=(str(model), "belongs to another run"))
    verify_refused("export", finished, "--format", "torch", "--out", finished / "m.pt2", says=("another run",))
    assert not (finished / "m.pt2").exists()


def test_the_result_of_another_run_is_refused(finished: Path):
    edit(finished / "result.json", another)
    verify_refused("train", "--resume", finished, says=("result.json belongs to another run",))
    (finished / "result.json").write_text("[")
    verify_refused("train", "--resume", finished, says=("result.json is damaged",))


def test_a_run_from_before_there_were_identities_goes_on(finished: Path):
    for name in ("config.json", "checkpoint.pt", "result.json"):
        edit(finished / name, forget)
    model = finished / "model.safetensors"
    save(load(model), model)
    assert "is finished" in verify_done("train", "--resume", finished)
    verify_done("evaluate", finished)
    unfinish(finished)
    verify_done("train", "--resume", finished)


@pytest.fixture
def held(finished: Path) -> Iterator[Path]:
    """The folder of an unfinished run in which another process is training."""
    unfinish(finished)
    with (finished / LOCK).open("w") as file:  # a file of one's own is as good as a process of one's own
        fcntl.flock(file, fcntl.LOCK_EX)
        yield finished


def test_a_second_process_in_a_folder_is_refused(held: Path):
    before = {path.name: path.read_bytes() for path in held.iterdir()}
    verify_refused("train", "--resume", held, says=(f"another process is training in {held}",))
    assert {path.name: path.read_bytes() for path in held.iterdir()} == before


def test_a_second_process_is_refused_in_a_folder_that_holds_nothing_yet(tmp_path: Path):
    with (tmp_path / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        verify_refused("train", *TINY, "--out", tmp_path, says=(f"another process is training in {tmp_path}",))
    assert listing(tmp_path) == [LOCK]


def test_what_killed_processes_left_is_cleared(finished: Path):
    files = listing(finished)
    unfinish(finished)
    for name in (LOCK, f"{TEMPORARY}abcd", f"{TEMPORARY}efgh"):
        (finished / name).write_text("half")
    verify_done("train", "--resume", finished)
    assert listing(finished) == files
