"""Trained networks made smaller: learning rates by layer, statistics that stay, and both after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.training import Settings, fit
from tests.training.problems import REST, Batches, bayesian, examples


def deep() -> nn.Module:
    """Three layers of weights, and a normalisation that has seen other inputs."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), layers.Gate(6),
        layers.Residual(nn.Linear(6, 6)), nn.Linear(6, 2),
    )  # fmt: skip
    net[1].running_mean.uniform_(-0.5, 0.5)
    return net


def moved(decay: float) -> dict[str, float]:
    """By name, how far one step of SGD moves a weight; the first step of all is at a fixed part of the rate."""
    bnn = bayesian(deep())
    before = {name: p.detach().clone() for name, p in bnn.weights().items()}
    sgd = Settings(lr=0.1, optimizer=torch.optim.SGD, schedule=REST, layer_decay=decay)
    fit(bnn, Batches(*examples(), size=480), epochs=1, prune=False, settings=sgd)
    return {name: float((p.detach() - before[name]).norm()) for name, p in bnn.weights().items()}


def test_each_layer_learns_at_its_own_rate() -> None:
    alike, by_layer = moved(1.0), moved(0.5)
    behind = {"0.weight": 2, "1.weight": 2, "1.bias": 2, "4.body.weight": 1, "4.body.bias": 1}
    for name, far in alike.items():
        assert by_layer[name] == pytest.approx(far * 0.5 ** behind.get(name, 0), rel=1e-3), name


def test_statistics_that_stay_are_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a step goes by the statistics of the batch, and the scales of the normalisation learn."""
    by_batch, batch_norm = [], nn.functional.batch_norm

    def watched(x: Tensor, mean: Tensor, var: Tensor, *args: Any) -> Tensor:
        by_batch.append(args[2])
        return batch_norm(x, mean, var, *args)

    monkeypatch.setattr(nn.functional, "batch_norm", watched)
    for freeze in (True, False):
        bnn, loader = bayesian(deep()), Batches(*examples(), size=480)
        fit(bnn, loader, epochs=1, prune=False, settings=Settings(schedule=REST, freeze_statistics=freeze))
        assert torch.equal(bnn.net[1].running_mean, deep()[1].running_mean) is freeze
        assert any(by_batch) is not freeze
        assert not torch.equal(bnn.net[1].weight, deep()[1].weight)
        by_batch.clear()


class Stopped(Exception):
    pass


def test_an_interrupted_run_ends_with_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    def run(folder: str, stop: int = 0) -> bp.BayesianNet:
        def on_epoch(row: bp.training.EpochRow) -> None:
            if row.epoch == stop:
                raise Stopped

        torch.manual_seed(0)
        bnn = bayesian(deep(), log_gamma=20.0)
        how = Settings(every=1, layer_decay=0.3, freeze_statistics=True)
        fit(bnn, Batches(*examples()), epochs=8, settings=how, out=tmp_path / folder, on_epoch=on_epoch)
        return bnn

    whole = run("whole")
    with pytest.raises(Stopped):
        run("broken", stop=6)
    broken = run("broken")
    assert broken.num_gates == whole.num_gates < 7
    for name, value in whole.state_dict().items():
        assert torch.equal(value, broken.state_dict()[name]), name


def test_a_plain_network_is_trained_by_layer_too() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    first = net[0].weight.detach().clone()
    fit(net, Batches(*examples()), epochs=1, method="none", settings=Settings(layer_decay=1e-6))
    assert torch.allclose(net[0].weight, first, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_a_decay_is_no_growth(decay: float) -> None:
    with pytest.raises(ConfigError, match="Settings: layer_decay"):
        Settings(layer_decay=decay)
