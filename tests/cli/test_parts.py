import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bayesprune.cli.config import RunConfig, check_device, read_config, resumed, write_config
from bayesprune.cli.folder import new_folder
from bayesprune.cli.progress import Display, describe
from bayesprune.errors import ConfigError, DataError
from bayesprune.training import EpochRow
from tests.cli.verify import listing

ROW = EpochRow(3, "settle", 0.98765, 0.5, 0.4, 0.97222, 1234, 0.5, 50_610, 50_200, 1.25)


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        (RunConfig(), "runs/lenet300-digits-seed0"),
        (RunConfig(net="resmlp12", data="mnist", seed=7), "runs/resmlp12-mnist-seed7"),
        (RunConfig(data="imagefolder:/data/birds"), "runs/lenet300-imagefolder-birds-seed0"),
        (RunConfig(data="imagefolder:../birds/"), "runs/lenet300-imagefolder-birds-seed0"),
    ],
)
def test_the_default_folder_is_one_name_below_runs(config: RunConfig, folder: str):
    assert config.default_folder == Path(folder)


def test_the_defaults_pass_the_check():
    RunConfig().check()


def test_a_config_survives_being_written(tmp_path: Path):
    config = RunConfig(net="resmlp", limit=77, log_gamma=0.1, data="imagefolder:a b")
    write_config(tmp_path, config, (3, 32, 16))
    assert read_config(tmp_path) == (config, (3, 32, 16))
    assert listing(tmp_path) == ["config.json"]


def test_only_given_options_are_compared_when_resuming():
    stored, asked = RunConfig(epochs=6, seed=3), RunConfig(seed=4)
    assert resumed(stored, asked, {"resume"}, Path("run")) == stored
    with pytest.raises(ConfigError, match="--seed 4 contradicts the run in run, which has --seed 3"):
        resumed(stored, asked, {"resume", "seed"}, Path("run"))


def test_data_that_were_moved_can_be_found_again():
    stored = RunConfig(data="mnist", data_dir="old")
    assert resumed(stored, RunConfig(data_dir="new"), {"data_dir"}, Path("run")) == replace(stored, data_dir="new")


def test_devices_that_are_there_are_taken(monkeypatch: pytest.MonkeyPatch):
    assert check_device("cpu").type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert (check_device("cuda").index, check_device("cuda:1").index) == (None, 1)
    with pytest.raises(ConfigError, match=r"cuda:0 to cuda:1"):
        check_device("cuda:2")


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ConfigError, match=f"--device {name}: .*--device cpu"):
            check_device(name)


def test_a_refused_run_takes_its_folder_away_again(tmp_path: Path):
    with pytest.raises(DataError), new_folder(tmp_path / "a" / "b", "checkpoint.pt"):
        (tmp_path / "a" / "b" / "config.json").touch()
        raise DataError("labels")
    assert listing(tmp_path) == []


def test_a_refused_run_leaves_a_folder_that_was_there(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError), new_folder(tmp_path / "mine", "checkpoint.pt"):
        (tmp_path / "mine" / "config.json").touch()
        raise DataError("labels")
    assert listing(tmp_path) == ["mine"]


def test_a_run_with_a_checkpoint_keeps_its_folder(tmp_path: Path):
    with pytest.raises(DataError), new_folder(tmp_path / "run", "checkpoint.pt"):
        (tmp_path / "run" / "checkpoint.pt").touch()
        raise DataError("labels")
    assert listing(tmp_path) == ["run", "run/checkpoint.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_can_be_resumed_keeps_its_folder(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), new_folder(tmp_path / "run", "checkpoint.pt"):
        (tmp_path / "run" / "config.json").touch()
        raise error
    assert listing(tmp_path) == ["run", "run/config.json"]


def test_an_epoch_is_described_in_one_line():
    assert describe(ROW) == "settle     loss 0.9877  accuracy 97.22 %  gates 1,234  params 50,610"


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
