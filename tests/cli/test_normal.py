"""Runs whose weights are Normal: what is said of their posterior is true of the posterior that was trained."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics.functional.classification import multiclass_calibration_error

from bayesprune import layers
from bayesprune.cli.config import resolve
from bayesprune.cli.posterior import compact_posterior, read_posterior
from bayesprune.cli.record import read_config
from bayesprune.cli.scoring import posterior_predictive
from bayesprune.data import load
from bayesprune.infer import BayesianNet, ClassPrediction
from bayesprune.methods.svi.removal import GateRemoval
from bayesprune.networks import NETWORKS
from bayesprune.pruning import load as load_network
from bayesprune.training.checkpoint import read_checkpoint
from tests.cli.verify import listing, start_and_stop, table, verify_done, verify_refused, verify_same_end

OPTIONS = (
    *("--slab", "normal", "--limit", "300", "--epochs", "6", "--batch-size", "16", "--every", "1"),
    *("--log-gamma", "0.01", "--temperature", "0.03", "--seed", "3"),
)
"""Options of a run of a second in which gates are removed."""
FIGURES = ("accuracy", "nll", "brier", "ece")


def remove_every_other(removal: GateRemoval, forced: Tensor) -> bool:
    """At rest, as `GateRemoval.clear`, but leave half of the gates that are off."""
    off = removal.net.theta.detach() == 0
    return removal._remove(off & (torch.arange(len(off)) % 2 == 0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BayesianNet]:
    """The folder of a finished run, and the network as training left it: some gates off that were not removed."""
    folder, left = tmp_path_factory.mktemp("normal") / "run", []

    def watched(net: BayesianNet) -> BayesianNet:
        left.append(copy.deepcopy(net))
        return compact_posterior(net)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GateRemoval, "clear", remove_every_other)
        patch.setattr("bayesprune.cli.run.compact_posterior", watched)
        verify_done("train", *OPTIONS, "--out", folder)
    return folder, left[0]


@pytest.fixture
def finished(trained: tuple[Path, BayesianNet], tmp_path: Path) -> Path:
    """A copy of the folder, to do with as one likes."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def digits_test() -> tuple[Tensor, Tensor]:
    return load("digits", limit=300).test[:]


def predicted(net: BayesianNet, x: Tensor, num_samples: int = 32) -> ClassPrediction:
    """The predictions that figures are to be made of: one set of draws for all examples, the same every time."""
    torch.manual_seed(0)
    prediction = net.predict(x, num_samples)
    assert isinstance(prediction, ClassPrediction)
    return prediction


def test_the_posterior_in_the_folder_is_the_one_that_was_trained(trained: tuple[Path, BayesianNet]):
    folder, net = trained
    theta = torch.cat([*net.gate_probs().values()])
    assert 10 < int((theta > 0.5).sum()) < len(theta) < 464  # some were removed, some of the others are off
    assert read_config(folder)[0].weight_decay == 1 / 300  # of the parameters that stay points
    posterior, expected = read_posterior(folder, 10), compact_posterior(net.eval())
    assert not posterior.training
    assert (posterior.num_data, posterior.weights_posterior.name) == (300, "normal")
    mine, theirs = posterior.net.state_dict(), expected.net.state_dict()
    assert mine.keys() == theirs.keys()
    assert any(name.endswith("log_scale") for name in mine)
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    assert bool((posterior.theta > 0.5).all())


def test_the_figures_are_those_of_the_posterior_predictive(trained: tuple[Path, BayesianNet]):
    folder, net = trained
    x, y = digits_test()
    p = predicted(compact_posterior(net.eval()), x).log_probs.double().softmax(-1).mean(0)
    expected = {
        "posterior_accuracy": float((p.argmax(1) == y).double().mean()),
        "posterior_nll": log_loss(y, p),
        "posterior_brier": float((p - nn.functional.one_hot(y, 10)).square().sum(1).mean()),
        "posterior_ece": float(multiclass_calibration_error(p.clamp(max=1 - 1e-7), y, num_classes=10, n_bins=15)),
        "posterior_samples": 32,
    }
    result = json.loads((folder / "result.json").read_text())
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert result["posterior_nll"] != result["nll"]
    assert (result["slab"], result["temperature"]) == ("normal", 0.03)


def test_the_plain_network_is_that_of_the_means(trained: tuple[Path, BayesianNet]):
    folder, net = trained
    x, y = digits_test()
    plain = load_network(folder / "model.safetensors")
    assert_close(plain(x).softmax(1), net.eval().predict(x, 0).mean, rtol=1e-4, atol=1e-5)
    assert not any("log_scale" in name for name in plain.state_dict())
    result = json.loads((folder / "result.json").read_text())
    assert result["accuracy"] == pytest.approx(float((plain(x).argmax(1) == y).double().mean()))
    assert result["nll"] == pytest.approx(nn.functional.cross_entropy(plain(x), y).item(), rel=1e-5)


def test_evaluate_repeats_the_result_and_takes_other_draws_if_asked(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    score = json.loads(verify_done("evaluate", finished, "--json"))
    keys = [f"{prefix}{name}" for prefix in ("", "posterior_") for name in FIGURES]
    assert {key: score[key] for key in keys} == pytest.approx({key: result[key] for key in keys}, rel=1e-6, abs=1e-9)
    assert score["posterior_samples"] == 32
    posterior = read_posterior(finished, 10)
    x, y = digits_test()
    p = predicted(posterior, x, 3).log_probs.double().softmax(-1).mean(0)
    three = json.loads(verify_done("evaluate", finished, "--num-samples", "3", "--json"))
    assert (three["posterior_samples"], three["nll"]) == (3, score["nll"])
    assert three["posterior_nll"] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert three["posterior_nll"] != score["posterior_nll"]


def test_noise_is_told_by_entropy_and_by_mutual_information(finished: Path):
    digits = load("digits", limit=300).test
    noise = torch.randint(17, digits.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    posterior = read_posterior(finished, 10)
    own, others = (predicted(posterior, x) for x in (digits[:][0], digits.normalise(noise)))
    target = [0] * len(own.mean) + [1] * len(noise)
    expected = {
        "posterior_auroc": roc_auc_score(target, torch.cat([own.entropy, others.entropy])),
        "posterior_auroc_information": roc_auc_score(
            target, torch.cat([own.mutual_information, others.mutual_information])
        ),
    }
    score = json.loads(verify_done("evaluate", finished, "--against", "noise", "--json"))
    assert {name: score[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert len({round(score[key], 6) for key in (*expected, "auroc")}) == 3
    documented = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    result = json.loads((finished / "result.json").read_text())
    assert [key for key in {**score, **result} if f"`{key}`" not in documented] == []


def test_evaluate_prints_both_and_draws_the_diagram_of_the_posterior(finished: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(
        "bayesprune.cli.scoring.draw_reliability", lambda found, path, title: drawn.append((found, title))
    )
    score = json.loads(verify_done("evaluate", finished, "--json"))
    out = verify_done("evaluate", finished)
    for prefix, label in (("", ""), ("posterior_", "posterior ")):
        assert f"{label}nll (nats)" in out
        assert f"{score[f'{prefix}nll']:.4f}" in out
    assert [(found.nll, title) for found, title in drawn] == [
        (score["posterior_nll"], "lenet300, seed 3: test split of digits, posterior predictive")
    ] * 2


def test_a_stopped_run_ends_as_an_unbroken_one(tmp_path: Path):
    """Stopped while gates settle, some of them removed."""
    unbroken, folder = tmp_path / "unbroken", tmp_path / "stopped"
    verify_done("train", *OPTIONS, "--out", unbroken)
    start_and_stop(*OPTIONS, folder=folder, epoch=4)
    last = table(folder / "history.csv")[-1]
    assert last["phase"] == "settle" and int(last["gates_left"]) < 464
    torch.manual_seed(99)
    verify_done("train", "--resume", folder)
    verify_same_end(folder, unbroken)
    mine, theirs = (read_checkpoint(path / "checkpoint.pt")["tensors"] for path in (folder, unbroken))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_exported_and_inspected_as_any_run(finished: Path, tmp_path: Path):
    assert "gates after epoch 6" in verify_done("inspect", finished)
    out = tmp_path / "mean.safetensors"
    verify_done("export", finished, "--format", "safetensors", "--out", out)
    x, _ = digits_test()
    assert_close(load_network(out)(x).softmax(1), read_posterior(finished, 10).predict(x, 0).mean, rtol=1e-4, atol=1e-5)


def test_every_batch_meets_the_same_networks_and_nobody_else_s_numbers_change():
    net = nn.Sequential(layers.Linear(4, 6, gate="unit", theta=0.5), nn.ReLU(), nn.Linear(6, 3))
    bnn = BayesianNet(net, num_data=10, slab="normal")
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    whole = posterior_predictive(bnn, [(x, y)], 8)
    assert torch.equal(torch.randn(3), expected)
    parts = posterior_predictive(bnn, [(x[:2], y[:2]), (x[2:], y[2:])], 8)
    assert_close(parts.probabilities, whole.probabilities, rtol=1e-6, atol=1e-7)
    assert_close(parts.information, whole.information, rtol=1e-4, atol=1e-6)
    assert whole.information is not None and bool((whole.information > 1e-4).all())
    assert torch.equal(parts.labels, y)


def test_the_posterior_is_not_asked_of_runs_that_have_none(finished_once: Path):
    assert not any(key.startswith("posterior") for key in json.loads((finished_once / "result.json").read_text()))
    says = ("--num-samples 8", "--slab point", "--slab normal")
    verify_refused("evaluate", finished_once, "--num-samples", "8", says=says)


def test_no_draws_are_refused(finished: Path):
    verify_refused("evaluate", finished, "--num-samples", "0", says=("--num-samples", "at least 1", "32"))


def test_a_posterior_without_its_checkpoint_is_refused(finished: Path, finished_once: Path):
    checkpoint = finished / "checkpoint.pt"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    before = listing(finished)
    verify_refused("evaluate", finished, says=(str(checkpoint), "truncated"))
    shutil.copy(finished_once / "checkpoint.pt", checkpoint)  # of point weights
    verify_refused("evaluate", finished, says=(str(checkpoint), "belongs to another run", "config.json"))
    checkpoint.unlink()
    verify_refused("evaluate", finished, says=("no checkpoint at", str(checkpoint)))
    assert listing(finished) == [name for name in before if name != "checkpoint.pt"]


@pytest.mark.parametrize("net", sorted(NETWORKS))
def test_normal_slabs_have_recipes_of_their_own(net: str):
    point, normal = resolve({"net": net, "device": "cpu"}), resolve({"net": net, "slab": "normal", "device": "cpu"})
    normal.check()
    changed = (normal.optimizer, normal.lr, normal.label_smoothing, normal.every, normal.temperature)
    assert changed == ("adam", 1e-2, 0.0, 2, 0.1)
    kept = (normal.batch_size, normal.weight_decay, normal.price)
    assert kept == ((64, None, 0.25) if net == "lenet300" else (point.batch_size, point.weight_decay, point.price))
    given = {"lr": 0.5, "label_smoothing": 0.2, "temperature": 1.0}
    asked = resolve({"net": net, "slab": "normal", **given})
    assert {name: getattr(asked, name) for name in given} == given


def test_a_run_recorded_before_there_was_a_temperature_can_be_read(finished: Path):
    """Its prior counted in full; it had no name either."""
    record = json.loads((finished / "config.json").read_text())
    del record["options"]["temperature"], record["run"]
    (finished / "config.json").write_text(json.dumps(record))
    assert read_config(finished)[0].temperature == 1.0
