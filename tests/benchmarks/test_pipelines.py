"""What the image benchmark is made of: a loop that resumes exactly, a peer of the asked size."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bayesprune as bp
from bayesprune.data.spans import Span
from bayesprune.infer.plain import PlainNet
from bayesprune.methods.none import Plain
from bayesprune.methods.protocol import Batch
from bayesprune.optim.rates import learning_rate
from bayesprune.training.trainer import Trainer


def train(bench: Any, experiment: Any, splits: bp.data.Splits, folder: Path, minutes: float = math.inf) -> Any:
    """The plain network of seed 0 after a run, and what the run returned."""
    torch.manual_seed(0)
    net = experiment.plain(splits)
    folder.mkdir(exist_ok=True)
    deadline = bench.experiment.Deadline(minutes, time.perf_counter())
    run = bench.running.Run(experiment, splits, 0, folder, deadline)
    progress = bench.running.Progress(folder, deadline)
    return net, bench.running.train_plainly(run, net, folder, experiment.epochs, experiment.lr, progress)


# experiment -----------------------------------------------------------------------------------------------------------


def test_the_plain_network_begins_as_the_gated_one(experiment: Any, splits: bp.data.Splits) -> None:
    torch.manual_seed(3)
    gated = experiment.gated(splits)
    torch.manual_seed(3)
    plain = experiment.plain(splits)
    assert bp.cost(plain).params == bp.cost(gated).params
    assert not any("gate" in name for name, _ in plain.named_modules())
    x = splits.test[:16][0]
    torch.testing.assert_close(plain(x), gated(x))  # in training mode, all branches on


def test_the_optimiser_is_sgd_with_nesterov_momentum(bench: Any) -> None:
    start, gradients = torch.tensor([1.0, -2.0]), [torch.tensor([0.3, 0.1]), torch.tensor([-0.2, 0.4])]
    weight = torch.nn.Parameter(start.clone())
    unused = torch.nn.Parameter(start.clone())
    optimizer = bench.experiment.nesterov(iter([unused, weight]), lr=0.1, weight_decay=0.01)
    expected, momentum = start.clone(), torch.zeros(2)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        slope = gradient + 0.01 * expected
        momentum = 0.9 * momentum + slope
        expected = expected - 0.1 * (slope + 0.9 * momentum)
    torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(unused.detach(), start)  # a branch that was off: neither momentum nor decay


def test_the_slab_gives_the_weight_decay(experiment: Any, splits: bp.data.Splits) -> None:
    bnn = experiment.bayesian(splits)
    assert bnn.weight_precision / bnn.num_data == pytest.approx(experiment.weight_decay)
    assert bnn.num_data == 96 and bnn.likelihood.label_smoothing == experiment.label_smoothing


def test_the_deadline_counts_what_comes_next(bench: Any) -> None:
    now = time.perf_counter()
    bench.experiment.Deadline(math.inf, now).epoch_done(1e9)
    bench.experiment.Deadline(1.0, now - 30).epoch_done(20.0)
    with pytest.raises(bench.experiment.OutOfTime):
        bench.experiment.Deadline(1.0, now - 30).epoch_done(31.0)


def test_an_epoch_is_done_however_late_it_is(bench: Any) -> None:
    deadline = bench.experiment.Deadline(0.0, time.perf_counter() - 1)
    deadline.check()
    with pytest.raises(bench.experiment.OutOfTime):
        deadline.epoch_done(0.0)
    with pytest.raises(bench.experiment.OutOfTime):
        deadline.check()


def test_a_network_that_does_not_exist_is_refused(experiment: Any, splits: bp.data.Splits) -> None:
    with pytest.raises(SystemExit, match="resnext7"):
        replace(experiment, net="resnext7").gated(splits)


# plain --------------------------------------------------------------------------------------------------------------


def test_a_broken_run_ends_with_the_numbers_of_an_unbroken_one(
    bench: Any, experiment: Any, splits: bp.data.Splits, tmp_path: Path
) -> None:
    whole, history = train(bench, experiment, splits, tmp_path / "whole")
    with pytest.raises(bench.experiment.OutOfTime):
        train(bench, experiment, splits, tmp_path / "broken", minutes=0.0)
    resumed, after = train(bench, experiment, splits, tmp_path / "broken")
    assert len(history.rows) == len(after.rows) == experiment.epochs
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_the_plain_loss_is_that_of_the_gated_network(bench: Any, experiment: Any, splits: bp.data.Splits) -> None:
    """With all gates on, the first step of both pipelines has the same loss and leaves the same weights."""
    x, y = splits.train[:32]
    torch.manual_seed(1)
    plain = experiment.plain(splits)
    torch.manual_seed(1)
    bnn = experiment.bayesian(splits)
    with torch.no_grad():
        bnn.theta.fill_(1.0)
    net = PlainNet(plain, experiment.likelihood(), len(splits.train))
    settings, loader = experiment.plain_settings(experiment.lr), bench.step.Repeat(x, y, 10)
    trainer = Trainer(net, loader, 1, False, settings, experiment.engine(), Plain())
    trainer.net.train()
    loss = trainer.train_step(Batch(x, y, Span(32, 0, 32)))
    decay = bnn.weight_precision / bnn.num_data
    optimizer = bench.experiment.nesterov(
        bnn.weights().values(), lr=experiment.lr * learning_rate(0, 10, 1), weight_decay=decay
    )
    objective = bp.infer.BatchObjective(bnn, x, y)
    gated_loss = objective(bnn.theta.detach()[None], skip=True).mean()
    gated_loss.backward()
    optimizer.step()
    torch.testing.assert_close(loss, gated_loss.detach())
    weights = dict(plain.named_parameters())
    assert weights.keys() == bnn.weights().keys()
    for name, weight in bnn.weights().items():
        torch.testing.assert_close(weights[name], weight)


# peer ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_peer_is_as_small_as_asked_and_no_smaller(
    bench: Any, experiment: Any, splits: bp.data.Splits, share: float
) -> None:
    pytest.importorskip("torch_pruning", reason="needs the extra 'bench'")
    net = replace(experiment, width=8).plain(splits)
    example = bench.experiment.example(splits)
    whole = bp.cost(net, example)
    smaller = bench.peer.pruned(net, example, round(share * whole.macs))
    macs = bp.cost(smaller, example).macs
    # At 8 to 32 channels the dearest group, one entry of the last stage's stream, is 5 % of the network.
    assert (share - 0.06) * whole.macs < macs <= share * whole.macs
    assert bp.cost(net, example) == whole
    assert smaller(splits.test[:4][0]).shape == (4, 10)


def test_a_peer_that_cannot_be_so_small_says_so(
    bench: Any, experiment: Any, splits: bp.data.Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_pruning", reason="needs the extra 'bench'")
    monkeypatch.setattr(bench.peer, "STEPS", 20)
    with pytest.raises(bench.peer.TooSmall, match="down to 1 multiply-adds"):
        bench.peer.pruned(experiment.plain(splits), bench.experiment.example(splits), 1)
