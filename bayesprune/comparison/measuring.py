"""What a network that a run ends with is measured by, and what the run took."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

from bayesprune.atomic import write_atomically
from bayesprune.data import Splits
from bayesprune.metrics import calibration
from bayesprune.pruning import measure_latency
from bayesprune.training import EpochRow
from bayesprune.training.metrics import class_probabilities

SELF = Path("/proc/self")
MIB = 2**20


class Clock:
    """Counts the processor's seconds of a run, over all the processes that it takes if it is broken off.

    Args:
        path: File in which they are kept, epoch by epoch.
    """

    def __init__(self, path: Path):
        self.path = path
        self._before = float(json.loads(path.read_text())) if path.exists() else 0.0
        self._began = time.process_time()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.process_time() - self._began

    def __call__(self, row: EpochRow) -> None:
        """Keep them, as an epoch ends."""
        write_atomically(self.path, json.dumps(self.seconds).encode())


def forget_peak() -> None:
    """Let the most memory of this process be what it has now, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        try:
            (SELF / "clear_refs").write_text("5")
        except OSError:  # not every container lets it
            return


def peak_mib() -> float:
    """The most memory since `forget_peak`, MiB; NaN where the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    status = SELF / "status"
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def scores(net: nn.Module, splits: Splits, batch: int) -> dict[str, float]:
    """How a network does on the examples that are scored, which are gone through once.

    Args:
        net: The plain network.
        splits: The data; ``test`` is scored.
        batch: Examples that are scored at a time.
    """
    count = len(splits.test)
    scored = (splits.test[start : start + batch] for start in range(0, count, batch))
    found = calibration(*class_probabilities(net, scored))
    return {"accuracy": found.accuracy, "nll": found.nll, "ece": found.ece}


def latencies(net: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """Milliseconds of passes of a network, by what rows call them, see `bayesprune.pruning.measure_latency`.

    Args:
        net: The plain network.
        example: One input.
    """
    inputs = {f"ms_of_{count}": torch.cat([example] * count) for count in (1, 256)}
    return {name: 1000 * sum(measure_latency(net, x)) for name, x in inputs.items()}


def nonzero(net: nn.Module) -> int:
    """How many weights are not 0, of parameters of at least two dimensions."""
    return sum(int((p != 0).sum()) for p in net.parameters() if p.dim() > 1)
