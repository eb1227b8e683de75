"""Ways to a network: train it plain and dense, let it prune itself, let others prune it; and the plain controls."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import controls
import hesso as only_train_once
import peer as torch_pruning
from experiment import example
from report import write_json
from running import Progress, Row, Run, Spent, begin, finish, needed, train_plainly
from torch import nn

import bayesprune as bp
from bayesprune.layers import Residual

FINE_TUNING = 0.1
"""Learning rate of fine-tuning, relative to that of training from scratch."""


def dense(run: Run) -> Row:
    """Train the network without gates, plainly."""
    folder = begin(run, "dense")
    start = run.experiment.gated(run.splits)
    branches = sum(isinstance(module, Residual) for module in start.modules())
    net = bp.compact(start.train())
    progress = Progress(folder, run.deadline)
    history = train_plainly(run, net, folder, run.experiment.epochs, run.experiment.lr, progress)
    return finish(run, "dense", net, history, progress, branches=(branches, branches))


def peer(run: Run) -> Row:
    """Prune the dense network to the multiply-adds that the gated one ended with, and fine-tune it.

    Raises:
        SystemExit: if one of the other two pipelines is not done.
        TooSmall: if Torch-Pruning cannot make it so small.
    """
    whole, target = needed(run, "dense", "gated")
    folder = begin(run, "peer")
    start = folder / "pruned.safetensors"
    if not start.exists():
        began, busy = time.perf_counter(), time.process_time()
        net = torch_pruning.pruned(
            bp.load(run.folder / "dense" / "model.safetensors"), example(run.splits), target.macs
        )
        took = Spent(time.perf_counter() - began, time.process_time() - busy)
        write_json(folder / "pruning.json", asdict(took))
        bp.save(net, start)
    pruning = Spent(**json.loads((folder / "pruning.json").read_text()))
    net = bp.load(start).to(run.experiment.device, memory_format=run.experiment.memory_format)
    progress = Progress(folder, run.deadline)
    epochs = max(1, run.experiment.epochs // 2)
    history = train_plainly(run, net, folder, epochs, FINE_TUNING * run.experiment.lr, progress)
    spent = pruning.and_then(whole.epochs, whole.cpu_epochs)
    return finish(run, "peer", net, history, progress, spent, branches=whole.branches)


def _check_same(run: Run, net: nn.Module, smaller: nn.Module) -> None:
    """Refuse a smaller network that does not compute what the one did that it was taken from.

    Raises:
        SystemExit: if their accuracies differ.
    """
    test = run.experiment.loaders(run.splits, run.seed)[1]
    before, after = (bp.training.evaluate(model, test).accuracy for model in (net, smaller))
    if abs(before - after) > 5 / len(run.splits.test):  # kernels may round differently for other shapes
        raise SystemExit(f"compaction changed the accuracy from {before} to {after}")


def gated(run: Run) -> Row:
    """Let the network prune itself while it trains.

    Raises:
        SystemExit: if compaction changes the accuracy.
    """
    folder = begin(run, "gated")
    bnn = run.experiment.bayesian(run.splits)
    branches = bnn.num_branches
    train = run.experiment.loaders(run.splits, run.seed)[0]
    progress = Progress(folder, run.deadline)
    history = bp.fit(
        bnn,
        train,
        epochs=run.experiment.epochs,
        settings=run.experiment.settings(run.splits),
        engine=run.experiment.engine(),
        out=folder,
        on_epoch=progress,
    )
    net = bp.compact(bnn)
    _check_same(run, bnn, net)
    left = sum(bool(gate.theta > 0.5) for gate in bnn.gates()[: bnn.num_branches])
    converged = history.rows[-1].gates_converged
    return finish(run, "gated", net, history, progress, branches=(left, branches), converged=converged)


def hesso(run: Run) -> Row:
    """Let HESSO prune the network while it trains, to the multiply-adds that the gated one ended with.

    Raises:
        SystemExit: if the gated pipeline is not done, or if taking out what is 0 changes the accuracy.
        TooSmall: if the run is too short for it.
    """
    (target,) = needed(run, "gated")
    folder = begin(run, "hesso")
    start = run.experiment.gated(run.splits)
    branches = sum(isinstance(module, Residual) for module in start.modules())
    net = bp.compact(start.train())
    progress, method = Progress(folder, run.deadline), only_train_once.Hesso(target.macs)
    history = train_plainly(run, net, folder, run.experiment.epochs, run.experiment.lr, progress, method)
    smaller = only_train_once.pruned(net, example(run.splits).to(run.experiment.device), target.macs)
    _check_same(run, net, smaller)
    return finish(run, "hesso", smaller, history, progress, branches=(branches, branches))


PIPELINES = {
    "dense": dense,
    "gated": gated,
    "peer": peer,
    "hesso": hesso,
    "scratch": controls.scratch,
    "scratch-equal": controls.scratch_equal,
    "scratch-rise": controls.scratch_rise,
    "narrower": controls.narrower,
    "shallower": controls.shallower,
}
"""In the order in which they need each other."""
