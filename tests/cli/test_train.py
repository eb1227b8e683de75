import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bayesprune.cli.config import RunConfig, resolve
from bayesprune.cli.progress import Display
from bayesprune.cli.run import perform, prepare
from bayesprune.data import load, loaders
from bayesprune.errors import DataError
from bayesprune.infer import Likelihood
from bayesprune.infer.targets import Targets, losses
from bayesprune.pruning import cost
from bayesprune.pruning import load as load_network
from bayesprune.training import EpochRow, evaluate
from tests.cli.verify import TINY, listing, run, table, verify_done, verify_refused

FILES = [
    "checkpoint.pt",
    "config.json",
    "gates.png",
    "history.csv",
    "model.safetensors",
    "reliability.png",
    "removals.csv",
    "result.json",
]


def test_a_run_leaves_its_files_and_no_others(finished: Path):
    assert listing(finished) == FILES


def test_the_result_is_that_of_the_saved_network(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    splits = load("digits", limit=600)
    network = load_network(finished / "model.safetensors")
    score = evaluate(network, loaders(splits, 32, 0)[1])
    size = cost(network, splits.test[:1][0])
    assert result["accuracy"] == pytest.approx(score.accuracy, abs=1e-12)
    assert result["nll"] == pytest.approx(score.nll, rel=1e-6)
    assert (result["params"], result["macs"]) == (size.params, size.macs)
    assert not network.training


def test_the_result_tells_the_run(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    assert result["dense_accuracy_not_measured"] is True
    assert (result["dense_params"], result["dense_macs"]) == (50_610, 64 * 300 + 300 * 100 + 100 * 10)
    assert (result["gates"], result["epochs"], result["seed"], result["device"]) == (464, 6, 3, "cpu")
    assert (result["network"], result["data"], result["log_gamma"]) == ("lenet300", "digits", 0.2)
    assert set(result["versions"]) == {"bayesprune", "torch", "pyro", "python"}
    assert result["versions"]["torch"] == torch.__version__


def test_history_and_removals_add_up_to_the_result(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    rows, removals = table(finished / "history.csv"), table(finished / "removals.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert result["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows))
    assert result["gates_converged"] == pytest.approx(float(rows[-1]["gates_converged"]))
    assert 464 - len(removals) >= int(rows[-1]["gates_left"]) == result["gates_left"]
    assert result["params"] <= int(rows[-1]["params"]) < result["dense_params"]
    assert len({(row["gate"], row["index"]) for row in removals}) == len(removals)


def test_the_config_holds_all_options(finished: Path):
    config = json.loads((finished / "config.json").read_text())
    given = {"epochs": 6, "limit": 600, "batch_size": 16, "lr": 0.02, "log_gamma": 0.2, "seed": 3}
    assert RunConfig(**config["options"]) == resolve(given)
    assert config["input_shape"] == [1, 8, 8]


def test_every_epoch_is_a_line_where_there_is_no_terminal(tmp_path: Path):
    lines = verify_done("train", *TINY, "--epochs", "2", "--out", tmp_path / "run").splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    rows = table(tmp_path / "run" / "history.csv")
    assert len(epochs) == 2
    for line, row in zip(epochs, rows, strict=True):
        assert line.startswith(f"epoch {row['epoch']}/2  {row['phase']}")
        assert f"gates with θ > ½ {row['gates_left']}  params {int(row['params']):,}" in line
    assert lines[-1] == f"results: {tmp_path / 'run'}"


def test_another_seed_is_another_run(tmp_path: Path):
    for seed in ("3", "4"):
        verify_done("train", *TINY, "--epochs", "1", "--seed", seed, "--out", tmp_path / seed)
    first, second = (json.loads((tmp_path / seed / "result.json").read_text()) for seed in ("3", "4"))
    assert first["nll"] != second["nll"]


def test_an_empty_folder_is_taken(tmp_path: Path):
    verify_done("train", *TINY, "--epochs", "1", "--out", tmp_path)
    assert listing(tmp_path) == FILES


def test_without_out_the_folder_is_named_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    verify_done("train", *TINY, "--epochs", "1", "--seed", "8")
    assert listing(tmp_path / "runs" / "lenet300-digits-seed8") == FILES


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--net", "lenet9"), ("unknown network 'lenet9'", "lenet300", "timm:NAME", "FILE.py:NAME")),
        (("--net", "my_net.py"), ("--net my_net.py: a file alone names no network", "my_net.py:NAME")),
        (("--data", "digit"), ("error: --data: expected the name of a data set", "digits", "'digit'")),
        (("--data", "imagefolder:nowhere"), ("nowhere", "train")),
        (("--estimator", "guess"), ("unknown estimator 'guess'", "second_order")),
        (("--slab", "gaussian"), ("--slab gaussian", "point, normal")),
        (("--temperature", "0.5"), ("--temperature 0.5", "--slab normal")),
        (("--slab", "normal", "--temperature", "0"), ("--temperature", "positive")),
        (("--slab", "normal", "--temperature", "nan"), ("--temperature", "nan")),
        (("--device", "toaster"), ("--device toaster", "cpu")),
        (("--device", "meta"), ("--device meta", "cuda")),
        (("--device", "cuda:99"), ("--device cuda:99", "no such CUDA device", "--device cpu")),
        (("--log-gamma", "nan"), ("--log-gamma", "nan")),
        (("--log-gamma", "inf"), ("--log-gamma", "inf")),
        (("--log-gamma", "0"), ("--log-gamma", "positive")),
        (("--price", "0"), ("--price", "positive", "per example")),
        (("--price", "0.1", "--log-gamma", "1"), ("--price and --log-gamma are two ways",)),
        (("--budget", "macs=0.4", "--log-gamma", "1"), ("--budget and --log-gamma are two ways",)),
        (("--budget", "macs"), ("budget", "'macs'")),
        (("--budget", "macs=much"), ("budget", "much")),
        (("--budget", "macs=1.5"), ("budget", "1.5")),
        (("--budget", "flops=0.5"), ("budget", "flops", "macs", "params", "latency")),
        (("--budget", "macs=0.0001"), ("macs", "0.0001")),
        (("--lr", "-1"), ("--lr", "-1.0")),
        (("--weight-decay", "-1"), ("--weight-decay", "not negative")),
        (("--optimizer", "adamw"), ("--optimizer adamw", "adam, sgd")),
        (("--augment", "mixup"), ("--augment mixup", "crop-flip, none")),
        (("--precision", "fp16"), ("--precision fp16", "float32, bf16")),
        (("--every", "0"), ("--every", "from 1 to", "got 0")),
        (("--epochs", "0"), ("--epochs", "from 1 to", "got 0")),
        (("--batch-size", "0"), ("--batch-size", "from 1 to", "got 0")),
        (("--seed", "-1"), ("--seed", "from 0 to", "got -1")),
        (("--limit", "0"), ("limit", "1437")),
        (("--limit", "2000"), ("limit", "1437", "2000")),
        (("--net", "lenet5"), ("lenet5", "16x16")),
        (("--net", "vgg16"), ("vgg16", "16x16", "(1, 8, 8)")),
        (("--net", "resnet18"), ("resnet18", "32x32", "(1, 8, 8)")),
        (("--net", "resnet21"), ("6n + 2", "resnet", "20")),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(
    tmp_path: Path, options: tuple[str, ...], says: tuple[str, ...]
):
    verify_refused("train", *options, "--out", tmp_path / "deep" / "run", says=says)
    assert listing(tmp_path) == []


def test_a_number_format_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bayesprune.training.devices._computes_bfloat16", lambda device: False)
    says = ("--precision bf16", "--precision float32")
    verify_refused("train", "--precision", "bf16", "--out", tmp_path / "run", says=says)
    assert listing(tmp_path) == []


def test_a_batch_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def overflow(outputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")

    spoil(monkeypatch, overflow)
    says = ("a batch of 16 examples", "try --batch-size 8,", "2.00 GiB")
    verify_refused("train", *TINY, "--out", tmp_path / "run", says=says)
    assert listing(tmp_path) == []


def test_missing_data_are_refused(tmp_path: Path):
    (tmp_path / "data" / "train" / "only").mkdir(parents=True)
    before = listing(tmp_path)
    verify_refused("train", "--data", f"imagefolder:{tmp_path / 'data'}", "--out", tmp_path / "run", says=("train",))
    assert listing(tmp_path) == before


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    verify_refused("train", *TINY, "--out", tmp_path, says=("not empty", "--out", f"--resume {tmp_path}"))
    assert listing(tmp_path) == ["thesis.tex"]


def test_a_file_for_a_folder_is_refused(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    verify_refused("train", *TINY, "--out", file, says=("is not a folder",))
    verify_refused("train", *TINY, "--out", file / "run", says=("cannot write", str(file / "run")))
    assert file.read_text() == "mine"
    assert listing(tmp_path) == ["file"]


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let training see the network's outputs as ``change`` gives them."""

    def spoiled(likelihood: Likelihood, outputs: torch.Tensor, y: Targets) -> torch.Tensor:
        return losses(likelihood, change(outputs), y)

    for user in ("bayesprune.infer.evaluation", "bayesprune.methods.svi.method"):
        monkeypatch.setattr(f"{user}.losses", spoiled)


def diverge(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the loss become NaN after so many steps."""
    steps = iter(range(10_000))

    def poison(outputs: torch.Tensor) -> torch.Tensor:
        return outputs * float("nan") if next(steps) >= after else outputs

    spoil(monkeypatch, poison)


def test_a_loss_that_is_not_finite_names_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diverge(monkeypatch, after=100)
    folder = tmp_path / "run"
    verify_refused(
        "train", *TINY, "--out", folder, says=("nan", str(folder / "checkpoint.pt"), "learning rate"), code=1
    )
    assert len(table(folder / "history.csv")) == 2
    assert listing(folder) == ["checkpoint.pt", "config.json", "history.csv"]


def test_a_loss_that_is_not_finite_at_once_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diverge(monkeypatch, after=0)
    verify_refused("train", *TINY, "--out", tmp_path / "run", says=("nan", "no checkpoint"), code=1)
    assert listing(tmp_path) == []


def test_ctrl_c_says_where_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(self: object, row: EpochRow) -> None:
        if row.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "__call__", interrupt)
    folder = tmp_path / "run"
    result = run("train", *TINY, "--out", folder)
    assert result.exit_code == 130 and "error: " not in result.stderr
    *_, line = result.stderr.splitlines()
    where = f"from {folder / 'checkpoint.pt'}"
    assert line == f"Interrupted; go on {where} with: bayesprune train --resume {folder}"
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize(
    ("net", "environment", "threads"),
    [("lenet300", {}, 1), ("lenet300", {"OMP_NUM_THREADS": "2"}, 2), ("resnet14", {}, 2)],
)
def test_a_small_network_trains_on_one_thread_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, net: str, environment: dict[str, str], threads: int
):
    during, before = [], torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def fit(*args: object, **kwargs: object) -> None:
        during.append(torch.get_num_threads())
        raise DataError("enough")

    monkeypatch.setattr("bayesprune.cli.run.fit", fit)
    try:
        torch.set_num_threads(2)
        with pytest.raises(DataError, match="enough"):
            perform(prepare(resolve({"net": net, "limit": 64})), Path("nowhere"))
        assert (during, torch.get_num_threads()) == ([threads], 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines(tmp_path: Path):
    result = run("train", *TINY, "--log-gamma", "5000", "--out", tmp_path / "run")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith("warning: ") for line in lines)


def test_json_is_all_that_standard_output_has(tmp_path: Path):
    options = ("--epochs", "1", "--limit", "100", "--log-gamma", "0.2")
    done = run("train", *options, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout) == json.loads((tmp_path / "run/result.json").read_text())
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("epoch 1/1  ") and last == f"results: {tmp_path / 'run'}"
    again = run("train", "--resume", tmp_path / "run", "--json")
    assert json.loads(again.stdout) == json.loads(done.stdout) and "is finished" in again.stderr
