"""What commands say and where their files go: counts, names of folders, smoothing, any encoding."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from bayesprune.cli.commands import app
from bayesprune.cli.encoding import PLAIN, write_what_can_be_written
from bayesprune.cli.folder import free_folder
from bayesprune.methods.svi.removal import GateRemoval
from bayesprune.pruning import gates_left
from bayesprune.training.checkpoint import read_checkpoint
from tests.cli.verify import TINY, listing, table, verify_done


def test_one_count_of_the_gates_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Line, row, table and result agree where some gates are off that were not removed."""
    monkeypatch.setattr(GateRemoval, "clear", lambda self, forced: False)
    folder = tmp_path / "run"
    lines = verify_done("train", *TINY, "--epochs", "4", "--seed", "3", "--out", folder).splitlines()
    state = read_checkpoint(folder / "checkpoint.pt")
    left = sum(gates_left(path[-1]) for path in state["history"]["thetas"].values())
    assert left < sum(len(origin) for origin in state["origin"].values())
    (last,) = (line for line in lines if line.startswith("epoch 4/4"))
    assert f"gates with θ > ½ {left}  " in last
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
