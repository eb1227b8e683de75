"""What each process does in `test_processes`: trains, and as it ends leaves the names of the threads that are left."""

from __future__ import annotations

import atexit
import sys
from pathlib import Path

import torch
from torch import nn

import bayesprune as bp
from bayesprune.layers import Gate
from bayesprune.training import Settings
from bayesprune.training.engine import Engine


def leave_threads(path: Path) -> None:
    path.write_text("\n".join(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()))


def main(folder: Path) -> None:
    """Begin with what is to be done last: the engine leaves the other processes before."""
    engine = None
    atexit.register(lambda: leave_threads(folder / f"{engine.rank}.txt"))
    engine = Engine("cpu")
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    bnn = bp.BayesianNet(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Gate(4), nn.Linear(4, 2)), num_data=16)
    bp.fit(bnn, [(x, x[:, 0].gt(0).long())], epochs=2, settings=Settings(), engine=engine)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
