"""A residual network with a budget, from images in folders to the compacted network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bayesprune.data import load
from bayesprune.infer import BayesianNet
from bayesprune.pruning import compact
from bayesprune.pruning import load as load_network
from tests.cli.verify import kill, numbers, table, verify_done, verify_refused, verify_same_end, write_images

BUDGET = 0.5
OPTIONS = (
    "--net",
    "resnet14",
    "--budget",
    f"macs={BUDGET}",
    "--epochs",
    "12",
    "--batch-size",
    "16",
    "--lr",
    "0.05",
    "--device",
    "cpu",
)
"""Options of a run of seconds: 6 branches, 6 steps an epoch."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    return write_images(tmp_path_factory.mktemp("images"), size=8, classes=3, train=32, test=16)


@pytest.fixture(scope="module")
def trained(images: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """The folder of a run, and the outputs of the gated network at its end for the test images."""
    folder = tmp_path_factory.mktemp("resnet") / "run"
    outputs = []

    def watched(net: BayesianNet) -> nn.Module:
        with torch.no_grad():
            outputs.append(net.net(load(images).test.tensors[0]))
        return compact(net)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesprune.cli.run.compact", watched)
        lines = verify_done("train", *OPTIONS, "--data", images, "--out", folder).splitlines()
    assert lines[-2:] == [f"budget macs={BUDGET}: met", f"results: {folder}"]
    return folder, outputs[0]


@pytest.fixture
def result(trained: tuple[Path, Tensor]) -> dict:
    return json.loads((trained[0] / "result.json").read_text())


def test_the_budget_is_met(result: dict):
    assert (result["budget"], result["budget_met"]) == (f"macs={BUDGET}", True)
    assert result["macs"] <= BUDGET * result["dense_macs"]
    assert result["nu"] > 0
    assert result["price"] is None and result["log_gamma"] is None


def test_gates_on_branches_are_counted(result: dict):
    assert result["branches"] == result["gates"] == 6
    assert result["branches_left"] == result["gates_left"] < 6


def test_the_result_says_where_and_how_fast(trained: tuple[Path, Tensor], result: dict):
    seconds = [float(row["seconds"]) for row in table(trained[0] / "history.csv")]
    assert (result["epoch_seconds_first"], result["epoch_seconds_last"]) == (seconds[0], seconds[-1])
    assert (result["precision"], result["processes"], result["device"]) == ("float32", 1, "cpu")
    assert result["device_name"]


def test_the_saved_network_computes_what_the_gated_one_did(trained: tuple[Path, Tensor], images: str):
    folder, expected = trained
    with torch.no_grad():
        outputs = load_network(folder / "model.safetensors")(load(images).test.tensors[0])
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)


def test_evaluate_repeats_the_result(trained: tuple[Path, Tensor], result: dict):
    score = json.loads(verify_done("evaluate", trained[0], "--json"))
    assert score["accuracy"] == result["accuracy"] == float(table(trained[0] / "history.csv")[-1]["val_accuracy"])
    assert (score["params"], score["macs"]) == (result["params"], result["macs"])


def test_the_recipe_was_used(trained: tuple[Path, Tensor]):
    options = json.loads((trained[0] / "config.json").read_text())["options"]
    assert (options["optimizer"], options["weight_decay"], options["augment"]) == ("sgd", 5e-4, "crop-flip")
    assert (options["budget"], options["price"], options["lr"]) == (f"macs={BUDGET}", None, 0.05)


def test_inspect_names_the_branches_by_their_modules(trained: tuple[Path, Tensor], tmp_path: Path):
    shutil.copy(trained[0] / "checkpoint.pt", tmp_path)
    rows = [line.split() for line in verify_done("inspect", tmp_path).splitlines()]
    names = [row[0] for row in rows if row and row[0].startswith("stage")]
    assert names == [f"stage{stage}.block{block}" for stage in (1, 2, 3) for block in (1, 2)]


@pytest.mark.slow
def test_a_killed_run_ends_as_an_unbroken_one(trained: tuple[Path, Tensor], images: str, tmp_path: Path):
    """Budget, crops and flips, momentum and running statistics go on where they were."""
    folder = tmp_path / "killed"
    kill("train", *OPTIONS, "--data", images, "--out", folder, epochs=4, steps=3)
    assert len(table(folder / "history.csv")) == 4
    verify_done("train", "--resume", folder)
    verify_same_end(folder, trained[0])
    assert numbers(folder)["result"]["budget_met"]


def test_another_budget_contradicts_the_run(trained: tuple[Path, Tensor]):
    says = ("--budget macs=0.7 contradicts", f"--budget macs={BUDGET}")
    verify_refused("train", "--resume", trained[0], "--budget", "macs=0.7", says=says)


def test_a_budget_that_cannot_be_met_leaves_nothing(images: str, tmp_path: Path):
    out = tmp_path / "deep" / "run"
    verify_refused(
        "train", *OPTIONS, "--budget", "macs=0.001", "--data", images, "--out", out, says=("budget", "macs", "0.001")
    )
    assert not (tmp_path / "deep").exists()
