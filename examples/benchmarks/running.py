"""What every pipeline has in common: what it is given, its progress, plain training, and the row that it leaves.

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

import torch
from experiment import Deadline, Experiment, example, peak_memory
from report import write_json
from timing import Pair, latency
from torch import nn

import bayesprune as bp
from bayesprune.data import Splits
from bayesprune.methods import Method
from bayesprune.training import EpochRow, History


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
    """Called after every epoch of a run: notes memory and the processor's time, and says how far it is.

    Args:
        folder: Of the pipeline.
        deadline: When to stop.

    Attributes:
        peak: Most memory the device's tensors took, bytes; ``None`` on the CPU.
        cpu: By epoch, the processor's seconds since the one before, or since the pipeline began.

    Raises:
        OutOfTime: when called, if the deadline is near; the epoch and its checkpoint are done.
    """

    def __init__(self, folder: Path, deadline: Deadline):
        self.file, self.deadline = folder / "progress.json", deadline
        noted = json.loads(self.file.read_text()) if self.file.exists() else {"peak": None, "cpu": {}}
        self.peak: int | None = noted["peak"]
        self.cpu: dict[str, float] = noted["cpu"]
        self._since = time.process_time()

    def __call__(self, row: EpochRow) -> None:
        """Take note of an epoch."""
        now = time.process_time()
        self.cpu[str(row.epoch)], self._since = now - self._since, now
        self.peak = peak_memory(self.peak)
        write_json(self.file, {"peak": self.peak, "cpu": self.cpu})
        left = f"{row.gates_left} gates, {row.macs / 1e6:.2f} M multiply-adds"
        print(f"  epoch {row.epoch}: {row.phase}, loss {row.nll:.4f}, {left}, {row.seconds:.2f} s", flush=True)
        self.deadline.epoch_done(row.seconds)

    def cpu_seconds(self, epochs: int) -> list[float] | None:
        """The processor's seconds of every epoch; ``None`` where one was not noted, or a GPU did the work.

        Args:
            epochs: How many there were.
        """
        if torch.cuda.is_available() or len(self.cpu) != epochs:
            return None
        return [self.cpu[str(epoch)] for epoch in range(1, epochs + 1)]


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
        cpu_seconds: As ``seconds``, of the processor's time, which other work on the machine does not add to; ``None``
            where it was not measured, or a GPU did the work.
        cpu_epochs: As ``epochs``, of the processor's time.
        charged: Multiply-adds that training took, by `bayesprune.training.History.charged`.
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
    cpu_seconds: float | None = None
    cpu_epochs: list[float] | None = None
    charged: float = 0.0

    @property
    def times(self) -> list[float]:
        """Seconds of its epochs, the processor's where they are known."""
        return self.cpu_epochs or self.epochs

    @property
    def first_seconds(self) -> float:
        """Seconds of an epoch at the start; the very first, with all that is made ready in it, is left out."""
        return median(self.times[1:4] or self.times)

    @property
    def last_seconds(self) -> float:
        """Seconds of an epoch at the end."""
        return median(self.times[-3:])

    @classmethod
    def read(cls, path: Path) -> Row:
        """The row that a finished pipeline wrote."""
        state = json.loads(path.read_text())
        timed = {int(size): Pair(**pair) for size, pair in state.pop("latency").items()}
        return cls(latency=timed, branches=tuple(state.pop("branches")), **state)


def begin(run: Run, name: str) -> Path:
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


def train_plainly(
    run: Run, net: nn.Module, folder: Path, epochs: int, lr: float, progress: Progress, method: str | Method = "none"
) -> History:
    """Train a network without gates, or go on with it.

    Args:
        run: What the pipeline was given.
        net: The network, on the experiment's device.
        folder: Of the pipeline.
        epochs: Length of the run.
        lr: Peak learning rate.
        progress: Called after every epoch.
        method: What prunes it meanwhile.

    Raises:
        OutOfTime: after an epoch and its checkpoint, when the deadline is near.
    """
    return bp.fit(
        net,
        run.experiment.loaders(run.splits, run.seed)[0],
        epochs=epochs,
        method=method,
        likelihood=run.experiment.likelihood(),
        settings=run.experiment.plain_settings(lr),
        engine=run.experiment.engine(),
        out=folder,
        on_epoch=progress,
    )


@dataclass(frozen=True)
class Spent:
    """What was spent before a pipeline's own training.

    Attributes:
        seconds: As a clock on the wall goes.
        cpu_seconds: Of the processor's time; ``None`` where unknown.
    """

    seconds: float = 0.0
    cpu_seconds: float | None = 0.0

    def and_then(self, epochs: list[float], cpu_epochs: list[float] | None) -> Spent:
        """With the epochs of a run, by both clocks."""
        unknown = self.cpu_seconds is None or cpu_epochs is None
        return Spent(self.seconds + sum(epochs), None if unknown else self.cpu_seconds + sum(cpu_epochs))


def finish(
    run: Run, name: str, net: nn.Module, history: History, progress: Progress, spent: Spent = Spent(), **known: Any
) -> Row:
    """Score and time the network that a pipeline ended with, and write it and its row.

    Args:
        run: What the pipeline was given.
        name: Of the pipeline.
        net: The network.
        history: Of its training.
        progress: What was noted in it.
        spent: On what the pipeline began with.
        **known: Other fields of the row.
    """
    test = run.experiment.loaders(run.splits, run.seed)[1]
    size = bp.cost(net, example(run.splits))
    whole = run.experiment.plain(run.splits)
    batches = {count: example(run.splits).expand(count, -1, -1, -1) for count in (1, run.experiment.batch_size)}
    epochs, cpu_epochs = [row.seconds for row in history.rows], progress.cpu_seconds(len(history.rows))
    row = Row(
        pipeline=name,
        net=run.experiment.net,
        seed=run.seed,
        accuracy=bp.training.evaluate(net, test).accuracy,
        macs=size.macs,
        params=size.params,
        layers=sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules()),
        epochs=epochs,
        peak=progress.peak,
        latency={count: latency(net, whole, x, run.experiment) for count, x in batches.items()},
        cpu_epochs=cpu_epochs,
        charged=history.charged,
        **asdict(spent.and_then(epochs, cpu_epochs)),
        **known,
    )
    bp.save(net, run.folder / name / "model.safetensors")
    write_json(run.folder / name / "row.json", asdict(row))
    return row


def needed(run: Run, *names: str) -> list[Row]:
    """The rows of pipelines that another one begins with.

    Args:
        run: What the pipeline was given.
        *names: Of the others.

    Raises:
        SystemExit: if one of them is not done.
    """
    paths = {name: run.folder / name / "row.json" for name in names}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        raise SystemExit(f"this pipeline begins with what others end with; run {', '.join(missing)} first")
    return [Row.read(path) for path in paths.values()]
