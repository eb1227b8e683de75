"""Weights of plain classifiers are shrunk as the learning rate rises again, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.layers import Conv2d, Linear
from bayesprune.methods.svi.shrinkage import LONG, SHRINK, shrink_weights
from bayesprune.training import Schedule, Settings
from tests.training.problems import bayesian, branches, shuffled, units

SHORT, ENOUGH = Schedule(1, LONG), Schedule(2, LONG)


def shrunk(net: nn.Module, schedule: Schedule = ENOUGH, **options: Any) -> list[float]:
    """By how much of its length each parameter but those of gates was shortened."""
    torch.manual_seed(0)
    bnn = bayesian(net, **options)
    before = {name: value.detach().clone() for name, value in bnn.weights().items()}
    shrink_weights(bnn, schedule)
    now = {name: value.detach() for name, value in bnn.weights().items()}
    return [float((now[name] - value).norm() / value.norm().clamp(min=1e-9)) for name, value in before.items()]


def test_weights_but_no_biases_are_shrunk() -> None:
    assert shrunk(units()) == pytest.approx([1 - SHRINK, 0, 1 - SHRINK, 0])


def test_weights_that_rest_stay() -> None:
    net = units()
    next(module for module in net.modules() if isinstance(module, nn.Linear)).weight.requires_grad_(False)
    assert shrunk(net) == pytest.approx([0, 0, 1 - SHRINK, 0])


@pytest.mark.parametrize(
    "net",
    [
        branches(),
        nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), Linear(4, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(Conv2d(1, 2, 3, gate="unit"), nn.Flatten(), nn.Linear(72, 2)),
    ],
)
def test_networks_that_are_no_plain_chain_stay(net: nn.Module) -> None:
    assert set(shrunk(net)) == {0.0}


def test_regressions_and_short_runs_stay() -> None:
    assert set(shrunk(units(), likelihood="gaussian")) == {0.0}
    assert set(shrunk(units(), SHORT)) == {0.0}


def test_a_run_shrinks_them_once_after_gates_have_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch in which they come to rest is scored with the weights that decided, not with those that go on."""
    calls: list[int] = []
    monkeypatch.setattr(
        "bayesprune.methods.svi.method.shrink_weights", lambda net, schedule: calls.append(schedule.settle_end)
    )
    epochs: list[int] = []
    train = shuffled()
    bp.fit(
        bayesian(units()),
        train,
        epochs=5,
        settings=Settings(),
        progress=False,
        on_epoch=lambda row: epochs.append(len(calls)),
    )
    assert calls == [Schedule(5, len(train)).settle_end] and epochs == [0, 0, 1, 1, 1]
