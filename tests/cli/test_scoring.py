"""The figures of the command line against those of the libraries, and where its pictures go."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from bayesprune.data import load
from bayesprune.pruning import load as load_network
from bayesprune.training.metrics import class_probabilities
from tests.cli.verify import listing, run, verify_done, verify_refused, write_images


def outputs(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Class probabilities of the network of a run, float64."""
    with torch.no_grad():
        return load_network(folder / "model.safetensors")(x).double().softmax(1)


def table(text: str) -> dict[str, str]:
    """Labels and figures of a printed table."""
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_train_and_evaluate_give_the_figures_of_the_saved_network(finished: Path):
    x, y = load("digits", limit=600).test[:]
    p = outputs(finished, x)
    expected = {
        "accuracy": float((p.argmax(1) == y).double().mean()),
        "nll": log_loss(y, p),
        "brier": float((p - nn.functional.one_hot(y, 10)).square().sum(1).mean()),
        "ece": float(multiclass_calibration_error(p.clamp(max=1 - 1e-7), y, num_classes=10, n_bins=15)),
    }
    result = json.loads((finished / "result.json").read_text())
    score = json.loads(verify_done("evaluate", finished, "--json"))
    for record in (result, score):
        assert {name: record[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert set(score) == {*expected, "params", "macs", "examples", "data"}


def test_evaluate_prints_the_figures_and_redraws_the_diagram(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    picture = finished / "reliability.png"
    of_training = picture.read_bytes()
    assert of_training.startswith(b"\x89PNG")
    before = listing(finished)
    picture.unlink()
    out = verify_done("evaluate", finished)
    assert table(out)["Brier score"] == f"{result['brier']:.4f}"
    assert table(out)["calibration error"] == f"{100 * result['ece']:.2f} %"
    assert out.splitlines()[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert listing(finished) == before


@pytest.fixture
def images_run(tmp_path: Path) -> tuple[Path, str]:
    """A run on images of two classes, and the name of its data set."""
    data = write_images(tmp_path / "two", size=8, classes=2, train=8, test=6)
    out = tmp_path / "run"
    verify_done("train", "--data", data, "--epochs", "2", "--log-gamma", "0.001", "--batch-size", "8", "--out", out)
    return out, data


def test_another_data_set_has_a_picture_of_its_own(images_run: tuple[Path, str], tmp_path: Path):
    folder, _ = images_run
    other = write_images(tmp_path / "other", size=8, classes=2, test=3)
    of_training = (folder / "reliability.png").read_bytes()
    out = verify_done("evaluate", folder, "--data", other)
    picture = folder / "reliability-imagefolder-other.png"
    assert f"picture: {picture}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (folder / "reliability.png").read_bytes() == of_training


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_picture_that_cannot_be_written_does_not_take_the_figures_along(finished: Path, form: tuple[str, ...]):
    good = verify_done("evaluate", finished, *form)
    picture = finished / "reliability.png"
    picture.unlink()
    (picture / "in the way").mkdir(parents=True)
    before = listing(finished)
    result = run("evaluate", finished, *form)
    assert result.exit_code == 2
    assert good.startswith(result.stdout)
    assert "picture:" not in result.stdout
    assert (json.loads(result.stdout)["ece"] < 1) if form else ("calibration error" in result.stdout)
    verify_refused("evaluate", finished, *form, says=("cannot write", str(picture), "the figures above are whole"))
    assert listing(finished) == before


def test_noise_is_told_by_the_entropy_of_the_probabilities(finished: Path):
    digits = load("digits", limit=600).test
    noise = torch.randint(17, digits.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    entropies = [
        torch.distributions.Categorical(outputs(finished, x)).entropy() for x in (digits[:][0], digits.normalise(noise))
    ]
    expected = roc_auc_score([0] * len(noise) + [1] * len(noise), torch.cat(entropies))
    score = json.loads(verify_done("evaluate", finished, "--against", "noise", "--json"))
    assert score["against"] == "noise"
    assert score["auroc"] == pytest.approx(expected, abs=1e-5)
    assert score["auroc"] > 0.5
    printed = table(verify_done("evaluate", finished, "--against", "noise"))
    assert printed["AUROC against noise"] == f"{score['auroc']:.4f}"


def test_another_data_set_is_normalised_as_that_of_the_run(images_run: tuple[Path, str], tmp_path: Path):
    folder, data = images_run
    other = write_images(tmp_path / "other", size=8, classes=5, test=4)
    own, images = load(data).test, load(other).test.images
    entropies = [
        torch.distributions.Categorical(outputs(folder, x)).entropy() for x in (own[:][0], own.normalise(images))
    ]
    expected = roc_auc_score([0] * 12 + [1] * 20, torch.cat(entropies))
    score = json.loads(verify_done("evaluate", folder, "--against", other, "--json"))
    assert (score["data"], score["examples"], score["against"]) == (data, 12, other)
    assert score["auroc"] == pytest.approx(expected, abs=1e-6)
    same = json.loads(verify_done("evaluate", folder, "--against", data, "--json"))
    assert same["auroc"] == pytest.approx(0.5)


def test_images_that_cannot_be_compared_are_refused(finished: Path, tmp_path: Path):
    large = write_images(tmp_path / "large", size=9, classes=2)
    says = (f"--against {large}", "(3, 9, 9)", "digits", "(1, 8, 8)", "'noise'")
    verify_refused("evaluate", finished, "--against", large, says=says)
    verify_refused("evaluate", finished, "--against", "nose", says=("'nose'", "digits"))


def test_probabilities_are_those_of_eval_mode_in_float64():
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train()
    with torch.no_grad():
        net[0].weight.fill_(0.0)
        net[0].bias.copy_(torch.tensor([0.0, 500.0]))
    batches = [(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)), (torch.randn(1, 3), torch.ones(1).long())]
    p, y = class_probabilities(net, batches)
    assert p[:, 0].log().tolist() == pytest.approx([-500.0] * 5)
    assert p[:, 1].tolist() == [1.0] * 5
    assert y.tolist() == [0, 0, 0, 0, 1]
    assert net.training and net[1].training
    assert not p.requires_grad
