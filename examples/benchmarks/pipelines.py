"""Three ways to a network: train it plain and dense, let it prune itself while it trains, prune it and fine-tune.

Each pipeline has a folder of its own, goes on from the checkpoint there, and leaves ``model.safetensors`` (the plain
network that it ends with) and ``row.json`` (its line in the tables) when it is done.
"""

from __future__ import annotations

import gc
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import peer as torch_pruning
import torch
from experiment import Deadline, Experiment, example, peak_memory
from report import write_json
from timing import Pair, latency
from torch import nn

import bayesprune as bp
from bayesprune.data import Splits
from bayesprune.layers import Residual
from bayesprune.training import EpochRow, History

FINE_TUNING = 0.1
"""Learning rate of fine-tuning, relative to that of training from scratch."""


@dataclass(frozen=True)
class Run:
    """What one pipeline is given.

    Attributes:
        experiment: How to train.
        splits: On what.
        seed: Of initial weights, order and augmentation.
        folder: Where the folders of the pipelines of this seed are.
        deadline: When to stop.
    """

    experiment: Experiment
    splits: Splits
    seed: int
    folder: Path
    deadline: Deadline


class Progress:
    """Called after every epoch of a run: notes memory and says how far it is.

    Args:
        folder: Of the pipeline.
        deadline: When to stop.

    Attributes:
        peak: Most memory the device's tensors took, bytes; ``None`` on the CPU.

    Raises:
        OutOfTime: when called, if the deadline is near; the epoch and its checkpoint are done.
    """

    def __init__(self, folder: Path, deadline: Deadline):
        self.file, self.deadline = folder / "memory.json", deadline
        self.peak: int | None = json.loads(self.file.read_text())["peak"] if self.file.exists() else None

    def __call__(self, row: EpochRow) -> None:
        """Take note of an epoch."""
        self.peak = peak_memory(self.peak)
        write_json(self.file, {"peak": self.peak})
        left = f"{row.gates_left} gates, {row.macs / 1e6:.2f} M multiply-adds"
        print(f"  epoch {row.epoch}: {row.phase}, loss {row.nll:.4f}, {left}, {row.seconds:.2f} s", flush=True)
        self.deadline.epoch_done(row.seconds)


@dataclass(frozen=True)
class Row:
    """What a pipeline ended with.

    Attributes:
        pipeline: Its name.
        net: Name of the network it began with.
        seed: Its seed.
        accuracy: Of the network that is left, on the test images, 0 to 1.
        macs: Multiply-adds of one example.
        params: Parameters.
        layers: Convolutions and linear maps.
        branches: Branches that are left; of those that there were at the start.
        seconds: All that training took: epochs, pruning, and what the pipeline began with.
        epochs: Seconds of each epoch of its own.
        peak: Most memory the device's tensors took, bytes; ``None`` where it was not measured.
        latency: By batch size, a forward pass relative to that of the dense network.
        converged: Fraction of the starting gates that are removed or within 0.01 of 0 or 1; ``None`` without gates.
    """

    pipeline: str
    net: str
    seed: int
    accuracy: float
    macs: int
    params: int
    layers: int
    branches: tuple[int, int]
    seconds: float
    epochs: list[float]
    peak: int | None
    latency: dict[int, Pair] = field(default_factory=dict)
    converged: float | None = None

    @property
    def first_seconds(self) -> float:
        """Seconds of an epoch at the start; the very first, with all that is made ready in it, is left out."""
        return median(self.epochs[1:4] or self.epochs)

    @property
    def last_seconds(self) -> float:
        """Seconds of an epoch at the end."""
        return median(self.epochs[-3:])

    @classmethod
    def read(cls, path: Path) -> Row:
        """The row that a finished pipeline wrote."""
        state = json.loads(path.read_text())
        timed = {int(size): Pair(**pair) for size, pair in state.pop("latency").items()}
        return cls(latency=timed, branches=tuple(state.pop("branches")), **state)


def dense(run: Run) -> Row:
    """Train the network without gates, plainly."""
    folder = _begin(run, "dense")
    start = run.experiment.gated(run.splits)
    branches = sum(isinstance(module, Residual) for module in start.modules())
    net = bp.compact(start.train())
    progress = Progress(folder, run.deadline)
    history = train_plainly(run, net, folder, run.experiment.epochs, run.experiment.lr, progress)
    return _finish(run, "dense", net, history, progress, seconds=_seconds(history), branches=(branches, branches))


def peer(run: Run) -> Row:
    """Prune the dense network to the multiply-adds that the gated one ended with, and fine-tune it.

    Raises:
        SystemExit: if one of the other two pipelines is not done.
        TooSmall: if Torch-Pruning cannot make it so small.
    """
    rows = {name: run.folder / name / "row.json" for name in ("dense", "gated")}
    missing = [name for name, path in rows.items() if not path.exists()]
    if missing:
        raise SystemExit(f"the peer begins with the dense network and the size of the gated one; run {missing} first")
    whole, target = Row.read(rows["dense"]), Row.read(rows["gated"])
    folder = _begin(run, "peer")
    start = folder / "pruned.safetensors"
    if not start.exists():
        began = time.perf_counter()
        net = torch_pruning.pruned(
            bp.load(run.folder / "dense" / "model.safetensors"), example(run.splits), target.macs
        )
        write_json(folder / "pruning.json", {"seconds": time.perf_counter() - began})
        bp.save(net, start)
    pruning = json.loads((folder / "pruning.json").read_text())["seconds"]
    net = bp.load(start).to(run.experiment.device, memory_format=run.experiment.memory_format)
    progress = Progress(folder, run.deadline)
    epochs = max(1, run.experiment.epochs // 2)
    history = train_plainly(run, net, folder, epochs, FINE_TUNING * run.experiment.lr, progress)
    seconds = whole.seconds + pruning + _seconds(history)
    return _finish(run, "peer", net, history, progress, seconds=seconds, branches=whole.branches)


def gated(run: Run) -> Row:
    """Let the network prune itself while it trains.

    Raises:
        SystemExit: if compaction changes the accuracy.
    """
    folder = _begin(run, "gated")
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
    test = run.experiment.loaders(run.splits, run.seed)[1]
    before, after = (bp.training.evaluate(model, test).accuracy for model in (bnn, net))
    if abs(before - after) > 5 / len(run.splits.test):  # kernels may round differently for other shapes
        raise SystemExit(f"compaction changed the accuracy from {before} to {after}")
    left = sum(bool(gate.theta > 0.5) for gate in bnn.gates()[: bnn.num_branches])
    seconds, converged = _seconds(history), history.rows[-1].gates_converged
    branches_left = (left, branches)
    return _finish(run, "gated", net, history, progress, seconds=seconds, branches=branches_left, converged=converged)


PIPELINES = {"dense": dense, "gated": gated, "peer": peer}


def _begin(run: Run, name: str) -> Path:
    """Make ready for a pipeline; returns its folder."""
    print(f"{run.experiment.net}, seed {run.seed}: {name}", flush=True)
    folder = run.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    if run.experiment.compile:
        torch.compiler.reset()  # what is compiled keeps the network of the pipeline before
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return folder


def train_plainly(run: Run, net: nn.Module, folder: Path, epochs: int, lr: float, progress: Progress) -> History:
    """Train a network without gates, or go on with it.

    Args:
        run: What the pipeline was given.
        net: The network, on the experiment's device.
        folder: Of the pipeline.
        epochs: Length of the run.
        lr: Peak learning rate.
        progress: Called after every epoch.

    Raises:
        OutOfTime: after an epoch and its checkpoint, when the deadline is near.
    """
    return bp.fit(
        net,
        run.experiment.loaders(run.splits, run.seed)[0],
        epochs=epochs,
        method="none",
        likelihood=run.experiment.likelihood(),
        settings=run.experiment.plain_settings(lr),
        engine=run.experiment.engine(),
        out=folder,
        on_epoch=progress,
    )


def _seconds(history: History) -> float:
    """What the epochs of a run took."""
    return sum(row.seconds for row in history.rows)


def _finish(run: Run, name: str, net: nn.Module, history: History, progress: Progress, **known: Any) -> Row:
    """Score and time the network that a pipeline ended with, and write it and its row.

    Args:
        run: What the pipeline was given.
        name: Of the pipeline.
        net: The network.
        history: Of its training.
        progress: What was noted in it.
        known: Other fields of the row.
    """
    test = run.experiment.loaders(run.splits, run.seed)[1]
    size = bp.cost(net, example(run.splits))
    whole = run.experiment.plain(run.splits)
    batches = {count: example(run.splits).expand(count, -1, -1, -1) for count in (1, run.experiment.batch_size)}
    row = Row(
        pipeline=name,
        net=run.experiment.net,
        seed=run.seed,
        accuracy=bp.training.evaluate(net, test).accuracy,
        macs=size.macs,
        params=size.params,
        layers=sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules()),
        epochs=[row.seconds for row in history.rows],
        peak=progress.peak,
        latency={count: latency(net, whole, x, run.experiment) for count, x in batches.items()},
        **known,
    )
    bp.save(net, run.folder / name / "model.safetensors")
    write_json(run.folder / name / "row.json", asdict(row))
    return row
