"""A run that was stopped and resumed ends with the numbers and the network of one that was not."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bayesprune.training.checkpoint import read_checkpoint
from tests.cli.verify import TINY, kill, listing, start_and_stop, verify_done, verify_refused, verify_same_end


@pytest.mark.parametrize("epoch", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_stopped_run_ends_as_an_unbroken_one(finished: Path, tmp_path: Path, epoch: int):
    folder = tmp_path / "stopped"
    start_and_stop(*TINY, "--seed", "3", folder=folder, epoch=epoch)
    assert listing(folder) == ["checkpoint.pt", "config.json", "history.csv"]
    torch.manual_seed(99)
    lines = verify_done("train", "--resume", folder).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == [f"{k}/6" for k in range(epoch + 1, 7)]
    verify_same_end(folder, finished)


def test_a_killed_run_ends_as_an_unbroken_one(finished: Path, tmp_path: Path):
    folder = tmp_path / "killed"
    kill("train", *TINY, "--seed", "3", "--out", folder, epochs=3, steps=4)
    state = read_checkpoint(folder / "checkpoint.pt")
    assert state["epoch"] == 3
    assert sum(len(origin) for origin in state["origin"].values()) < 464
    assert listing(folder) == [".lock", "checkpoint.pt", "config.json", "history.csv"]
    verify_done("train", "--resume", folder)
    verify_same_end(folder, finished)


def test_a_run_killed_before_its_first_checkpoint_starts_over(finished: Path, tmp_path: Path):
    folder = tmp_path / "young"
    folder.mkdir()
    shutil.copy(finished / "config.json", folder)
    verify_done("train", "--resume", folder)
    verify_same_end(folder, finished)


def test_a_run_killed_while_it_wrote_its_results_writes_them_again(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "late"))
    for name in ("result.json", "gates.png", "model.safetensors"):
        (folder / name).unlink()
    verify_done("train", "--resume", folder)
    verify_same_end(folder, finished)


def test_a_finished_run_says_so_and_stays_as_it_is(finished: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert "is finished" in verify_done("train", "--resume", finished)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_run_killed_after_its_last_file_leaves_nothing_behind(finished: Path):
    for name in (".lock", ".bayesprune-abc"):
        (finished / name).touch()
    assert "is finished" in verify_done("train", "--resume", finished)
    assert not any(name.startswith(".") for name in listing(finished))


def test_options_that_agree_with_the_run_may_be_given(finished: Path):
    options = ("--epochs", "6", "--net", "lenet300", "--seed", "3", "--data-dir", "elsewhere", "--out", finished)
    assert "is finished" in verify_done("train", "--resume", finished, *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--epochs", "7"), ("--epochs 7 contradicts", "--epochs 6")),
        (("--seed", "0"), ("--seed 0 contradicts", "--seed 3")),
        (("--batch-size", "64"), ("--batch-size 64 contradicts", "--batch-size 16")),
        (("--net", "resmlp"), ("--net resmlp contradicts", "--net lenet300")),
        (("--out", "elsewhere"), ("--out elsewhere contradicts --resume",)),
    ],
)
def test_options_that_contradict_the_run_are_refused(finished: Path, options: tuple[str, ...], says: tuple[str, ...]):
    (finished / "result.json").unlink()
    before = listing(finished)
    verify_refused("train", "--resume", finished, *options, says=says)
    assert listing(finished) == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    verify_refused("train", "--resume", tmp_path / "nowhere", says=("is not the folder of a run: it does not exist",))
    verify_refused("train", "--resume", tmp_path, says=("is not the folder of a run: it has no config.json",))
    assert listing(tmp_path) == []


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def alter(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


@pytest.mark.parametrize("damage", [truncate, alter, lambda content: b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused(finished: Path, damage):
    (finished / "result.json").unlink()
    checkpoint = finished / "checkpoint.pt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    before = listing(finished)
    verify_refused("train", "--resume", finished, says=(str(checkpoint),))
    assert listing(finished) == before


def test_a_checkpoint_of_another_network_is_refused(finished: Path, tmp_path: Path):
    other = tmp_path / "other"
    verify_done("train", *TINY, "--epochs", "1", "--net", "resmlp3", "--out", other)
    (finished / "result.json").unlink()
    shutil.copy(other / "checkpoint.pt", finished)
    verify_refused("train", "--resume", finished, says=("another run", "its network is"))


def test_a_damaged_config_is_refused(finished: Path):
    config = finished / "config.json"
    for content in ("{", "[]", json.dumps({"options": {"net": "lenet300"}, "input_shape": [1]})):
        config.write_text(content)
        verify_refused("train", "--resume", finished, says=(str(config), "damaged"))
