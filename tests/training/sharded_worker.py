"""What each process computes in `test_sharded`, as `worker` does for processes that hold all weights.

The networks and runs come from here too, so that the test computes the same in one process.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.infer import BatchObjective, BayesianNet, get_estimator
from bayesprune.infer.objective import WEIGHT_TERMS, total
from bayesprune.layers import Residual
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training import EpochRow, History, Settings, fit
from bayesprune.training.engine import Engine
from tests.training import worker
from tests.training.problems import Batches, bayesian, branches, examples, units

QUICK = {
    "sample_from": 0.05, "settle_from": 0.4, "fine_tune_from": 0.75, "travel": 5.0, "checks_per_epoch": 3,
}  # fmt: skip
EPOCHS, STOP = 6, 3
NETWORKS = {"branches": branches, "units": units}
ESTIMATORS = ["straight_through", "exact", "paired"]


class Tied(nn.Module):
    """Weights that two layers share, one that is no layer's, normalisation, a gated layer, and a branch in a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 5))
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 5)
        inner = nn.Sequential(nn.Linear(5, 5), Residual(nn.Linear(5, 5)), nn.Tanh())
        self.a = Residual(inner, shortcut=nn.Linear(5, 5, bias=False))
        self.b = Residual(nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.BatchNorm1d(5)))
        self.layer, self.third, self.last = layers.Linear(5, 5, gate="layer"), nn.Linear(5, 5), nn.Linear(5, 3)
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(self.second(self.first(x).tanh())))
        return self.last(self.layer(self.third(x) * self.scale).tanh())


def tied() -> BayesianNet:
    torch.manual_seed(4)
    return BayesianNet(Tied().double(), num_data=8)


def entries(net: BayesianNet) -> int:
    """How many entries of weights this process holds."""
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in net.weights().values())


def whole(tensor: Tensor | None) -> Tensor | None:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients(net: BayesianNet) -> dict[str, Tensor | None]:
    return {name: whole(p.grad) for name, p in net.weights().items()}


def estimate(net: BayesianNet, x: Tensor, y: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Gradient of θ and loss at gates of which one is off; the visited gate and dropout are drawn from one seed."""
    torch.manual_seed(1)
    objective = BatchObjective(net, x, y)
    xi = torch.ones(1, net.num_gates, dtype=torch.float64)
    xi[0, 1] = 0
    loss = get_estimator(name)(objective, net.theta, xi, net.price)
    loss.backward()
    assert net.theta.grad is not None
    return net.theta.grad, loss.detach()


def steps(engine: Engine, name: str, x: Tensor, y: Tensor, patterns: list[str]) -> dict[str, Any]:
    """Two steps, the removal of a branch, and two more, in one ``sharded`` context."""
    net = worker.network()
    optimizer = worker.OPTIMIZERS[name](net.weights().values())
    held = []

    def step(pattern: str) -> None:
        xi = worker.gates(pattern)[:, : net.num_gates]
        optimizer.zero_grad()
        engine.backward(worker.mean_loss(net, engine.wrap(net), x, y, xi))
        optimizer.step()
        held.append(entries(net))

    with engine.sharded(net, optimizer):
        for pattern in patterns[:2]:
            step(pattern)
        with engine.whole(read_only=True):
            penalty = total(net, WEIGHT_TERMS).detach().item()
        with engine.whole():
            smaller, index = shrink(net.net, {"4": torch.tensor([True])})
            old = net.weights()
            net.replace(smaller, kept_gates(net.net, index))
            remap_optimizer(optimizer, old, net.weights(), index)
        for pattern in patterns[2:]:
            step(pattern)
    state = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    return {"weights": net.net.state_dict(), "state": state, "held": held, "penalty": penalty}


class Share(Batches):
    """A process' part of every batch; notes how many entries of weights it held meanwhile."""

    def __init__(self, net: BayesianNet, engine: Engine):
        super().__init__(*examples())
        self.net, self.engine = net, engine
        self.held: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().__iter__():
            self.held.append((entries(self.net), sum(p.numel() for p in self.net.weights().values())))
            size = self.size // self.engine.world_size
            own = slice(size * self.engine.rank, size * (self.engine.rank + 1))
            yield x[own], y[own]


class Stop(Exception):
    """A run that is broken off."""


def stop(row: EpochRow) -> None:
    if row.epoch == STOP:
        raise Stop


def run(engine: Engine, name: str, out: Path | None = None, broken: bool = False) -> dict[str, Any]:
    """One run of `fit`, as plain values."""
    torch.manual_seed(3)
    net = bayesian(NETWORKS[name]())
    kinds = [type(module).__name__ for module in net.net.modules()]
    loader, settings = Share(net, engine), Settings(schedule=QUICK, lr=0.01)
    history = History()
    with suppress(Stop):
        history = fit(
            net, loader, epochs=EPOCHS, val_loader=[examples()] if name == "units" else None, settings=settings,
            engine=engine, out=out, on_epoch=stop if broken else None,
        )  # fmt: skip
    return {
        "weights": net.net.state_dict(),
        "thetas": history.thetas,
        "removals": [(r.step, r.gate, r.index) for r in history.removals],
        "norms": [r.weight_norm for r in history.removals],
        "rows": [[row.loss, row.nll, row.val_nll, row.params, row.macs] for row in history.rows],
        "held": loader.held[1:],  # the first batch is looked at before
        "kinds": [kinds, [type(module).__name__ for module in net.net.modules()]],
        "modes": [module.training for module in net.net.modules()],
    }


class Process:
    """One process, which holds its part of all weights."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.engine = Engine("cpu", strategy="fsdp")
        self.part = slice(4 * self.engine.rank, 4 * self.engine.rank + 4)

    def batch(self) -> tuple[Tensor, Tensor]:
        x, y = worker.batch()
        return x[self.part], y[self.part]

    def weight_gradients(self) -> dict[str, Any]:
        """Gradients where weights of the processes differ at first."""
        found = {}
        for pattern in worker.PATTERNS:
            net, (x, y) = worker.network(), self.batch()
            with torch.no_grad():
                for weight in net.weights().values():
                    weight.add_(self.engine.rank)
            with self.engine.sharded(net, torch.optim.SGD(net.weights().values())):
                self.engine.backward(worker.mean_loss(net, net, x, y, worker.gates(pattern)))
                found[pattern] = gradients(net)
        return found

    def theta_gradients(self) -> dict[str, Any]:
        found = {}
        for name in ESTIMATORS:
            net, x, y = tied(), *worker.batch()  # the whole batch, because of the normalisation
            with self.engine.sharded(net, torch.optim.SGD(net.weights().values())):
                theta, loss = estimate(net, x, y, name)
                found[name] = self.engine.mean(theta), loss, gradients(net), dict(net.named_buffers())
                resumed = [behind is not None for behind in net.resumption.behind]
            found[name] += (resumed, net.branch_evaluations)
        return found

    def training(self) -> dict[str, Any]:
        return {name: steps(self.engine, name, *self.batch(), worker.SEQUENCE) for name in worker.OPTIMIZERS}

    def fits(self) -> dict[str, Any]:
        return {name: run(self.engine, name) for name in NETWORKS}

    def resumed(self) -> dict[str, Any]:
        """A run that is broken off, begun without dividing the weights and gone on with dividing them; and reversed."""
        other = Engine("cpu")
        run(other, "branches", self.folder / "whole", broken=True)
        run(self.engine, "branches", self.folder / "divided", broken=True)
        self.engine.barrier()
        if self.engine.is_main:
            shutil.copytree(self.folder / "divided", self.folder / "for one process")
        self.engine.barrier()
        return {
            "divided": run(self.engine, "branches", self.folder / "whole"),
            "whole": run(other, "branches", self.folder / "divided"),
        }

    def refused(self) -> str:
        net = BayesianNet(nn.Sequential(Residual(nn.Linear(2, 2)), Number()), num_data=1)
        try:
            with self.engine.sharded(net, torch.optim.SGD(net.weights().values())):
                return "accepted"
        except ConfigError as error:
            return str(error)


class Number(nn.Module):
    """Multiplies by one number."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


if __name__ == "__main__":
    process = Process(Path(sys.argv[1]))
    names = ["weight_gradients", "theta_gradients", "training", "fits", "resumed", "refused"]
    results = {name: getattr(process, name)() for name in names}
    torch.save(results, process.folder / f"{process.engine.rank}.pt")
