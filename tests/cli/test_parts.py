import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bayesprune.cli.config import resolve
from bayesprune.cli.folder import new_folder
from bayesprune.cli.progress import Display, describe
from bayesprune.cli.record import read_config, resumed, write_config
from bayesprune.errors import ConfigError, DataError
from bayesprune.training import EpochRow
from tests.cli.verify import listing

ROW = EpochRow(
    epoch=3, phase="settle", loss=0.98765, nll=0.5, val_nll=0.4, val_accuracy=0.97222, gates_left=1234,
    gates_converged=0.5, params=50_610, macs=50_200, nu=0.25, expected=0.5, seconds=1.25,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "runs/lenet300-digits-seed0"),
        ({"net": "resmlp12", "data": "mnist", "seed": 7}, "runs/resmlp12-mnist-seed7"),
        ({"data": "imagefolder:/data/birds"}, "runs/lenet300-imagefolder-birds-seed0"),
        ({"data": "imagefolder:../birds/"}, "runs/lenet300-imagefolder-birds-seed0"),
    ],
)
def test_the_default_folder_is_one_name_below_runs(options: dict, folder: str):
    assert resolve(options).default_folder == Path(folder)


def test_a_config_survives_being_written(tmp_path: Path):
    config = resolve({"net": "resmlp", "limit": 77, "log_gamma": 0.1, "data": "imagefolder:a b", "compile": True})
    run = write_config(tmp_path, config, (3, 32, 16))
    assert read_config(tmp_path) == (config, (3, 32, 16), run)
    assert listing(tmp_path) == ["config.json"]


def test_a_run_recorded_with_fewer_options_can_be_read(tmp_path: Path):
    """Those that came later have the values that all runs had before."""
    config = resolve({"seed": 3})
    write_config(tmp_path, config, (1, 8, 8))
    record = json.loads((tmp_path / "config.json").read_text())
    for name in ("budget", "precision", "compile", "augment", "every", "weight_decay", "optimizer", "temperature"):
        del record["options"][name]
    del record["run"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert read_config(tmp_path) == (replace(config, every=4, weight_decay=None), (1, 8, 8), None)


def test_only_given_options_are_compared_when_resuming():
    stored = resolve({"epochs": 6, "seed": 3, "log_gamma": 0.2})
    assert resumed(stored, {}, Path("run")) == stored
    assert resumed(stored, {"seed": 3, "log_gamma": 0.2, "device": "auto", "augment": "auto"}, Path("run")) == stored
    with pytest.raises(ConfigError, match="--seed 4 contradicts the run in run, which has --seed 3"):
        resumed(stored, {"seed": 4}, Path("run"))
    with pytest.raises(ConfigError, match=r"--budget macs=0\.5 contradicts .* no --budget"):
        resumed(stored, {"budget": "macs=0.5"}, Path("run"))


def test_data_that_were_moved_can_be_found_again():
    stored = resolve({"data": "mnist", "data_dir": "old"})
    assert resumed(stored, {"data_dir": "new"}, Path("run")) == replace(stored, data_dir="new")


def test_a_refused_run_takes_its_folder_away_again(tmp_path: Path):
    with pytest.raises(DataError), new_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "config.json").touch()
        raise DataError("labels")
    assert listing(tmp_path) == []


def test_a_refused_run_leaves_a_folder_that_was_there(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError), new_folder(tmp_path / "mine"):
        (tmp_path / "mine" / "config.json").touch()
        raise DataError("labels")
    assert listing(tmp_path) == ["mine"]


def test_a_run_with_a_checkpoint_keeps_its_folder(tmp_path: Path):
    with pytest.raises(DataError), new_folder(tmp_path / "run"):
        (tmp_path / "run" / "checkpoint.pt").touch()
        raise DataError("labels")
    assert listing(tmp_path) == ["run", "run/checkpoint.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_can_be_resumed_keeps_its_folder(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), new_folder(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
        raise error
    assert listing(tmp_path) == ["run", "run/config.json"]


def test_an_epoch_is_described_in_one_line():
    assert describe(ROW) == "settle     loss 0.9877  accuracy 97.22 %  gates with θ > ½ 1,234  params 50,610"


def test_a_terminal_shows_a_bar():
    out = io.StringIO()
    with Display(40, Console(file=out, force_terminal=True, width=140)) as display:
        display(ROW)
    assert "3/40" in out.getvalue()
    assert describe(ROW) in out.getvalue()


def test_elsewhere_an_epoch_is_a_line(capsys: pytest.CaptureFixture[str]):
    with Display(40, Console(file=io.StringIO())) as display:
        display(ROW)
    assert capsys.readouterr().out == f"epoch  3/40  {describe(ROW)}  1.25 s\n"
