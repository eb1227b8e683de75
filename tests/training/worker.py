"""What each process computes in `test_processes`: started by torchrun, leaves its results in a file named by its rank.

The network, the batch and the gates come from here too, so that the test computes the same in one process.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bayesprune.errors import RankError
from bayesprune.infer import BatchObjective, BayesianNet, get_estimator
from bayesprune.layers import Residual
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training.engine import Engine

SHARES = {"even": [4, 4], "uneven": [5, 3]}
PATTERNS = {"two on": [1.0, 0.0, 1.0, 0.0], "all off": [0.0] * 4, "all on": [1.0] * 4}
SEQUENCE = ["two on", "all on", "all off", "two on"]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": partial(torch.optim.Adam, lr=0.1, weight_decay=0.01, fused=True),
}


def network(norm: bool = False, slab: str = "point") -> BayesianNet:
    """Four branches; in float64, so that only what is really different differs."""
    torch.manual_seed(3)
    bodies = [Residual(nn.Sequential(nn.Linear(4, 4), nn.Tanh())) for _ in range(4)]
    first = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)) if norm else nn.Linear(6, 4)
    return BayesianNet(nn.Sequential(first, *bodies, nn.Linear(4, 3)).double(), num_data=8, slab=slab)


def quiet() -> BayesianNet:
    """With Normal weights that hardly vary, so that every process has the same noise: none."""
    net = network(slab="normal")
    with torch.no_grad():
        for log_scale in net.weights_posterior.log_scales():  # type: ignore[union-attr]
            log_scale.fill_(-40.0)
    net.refresh()
    return net


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 3


def gates(pattern: str) -> Tensor:
    return torch.tensor([PATTERNS[pattern]], dtype=torch.float64)


def mean_loss(net: BayesianNet, call: Callable[..., Tensor], x: Tensor, y: Tensor, xi: Tensor) -> Tensor:
    return net.likelihood.nll(call(x, xi, skip=True), y).mean()


def gradients(net: BayesianNet) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.net.named_parameters()}


def estimate(
    net: BayesianNet, call: Callable[..., Tensor], x: Tensor, y: Tensor, name: str, weight: float = 1
) -> Tensor:
    """One pass of an estimator at gates that are all on; the loss, weighed."""
    objective = BatchObjective(net, x, y, module=call)
    return get_estimator(name)(objective, net.theta, gates("all on"), net.price) * weight


def without_last(net: BayesianNet) -> BayesianNet:
    """The network without its last branch."""
    smaller, index = shrink(net.net, {"4": torch.tensor([True])})
    net.replace(smaller, kept_gates(net.net, index))
    return net


class Process:
    """One process: its engine and its part of the batch."""

    def __init__(self) -> None:
        self.engine = Engine("cpu")

    def part(self, shares: str = "even") -> tuple[Tensor, Tensor, float]:
        sizes, rank = SHARES[shares], self.engine.rank
        x, y = batch()
        return x.split(sizes)[rank], y.split(sizes)[rank], sizes[rank] / 4

    def step(self, net: BayesianNet, call: Callable[..., Tensor], xi: Tensor, shares: str = "even") -> None:
        x, y, weight = self.part(shares)
        net.zero_grad()
        self.engine.backward(mean_loss(net, call, x, y, xi) * weight)

    def weight_gradients(self) -> dict[str, Any]:
        net = network()
        call, found = self.engine.wrap(net), {}
        for shares in SHARES:
            for pattern in PATTERNS:
                self.step(net, call, gates(pattern), shares)
                found[shares, pattern] = gradients(net)
        return found

    def training(self) -> dict[str, Any]:
        found = {}
        for name, make in OPTIMIZERS.items():
            net = network()
            optimizer, call = make(net.weights().values()), self.engine.wrap(net)
            for pattern in SEQUENCE:
                self.step(net, call, gates(pattern))
                optimizer.step()
            found[name] = {key: value.clone() for key, value in net.net.state_dict().items()}
        return found

    def theta_gradients(self) -> dict[str, Any]:
        found = {}
        for name in ("straight_through", "exact"):
            net = network()
            x, y, _ = self.part()
            call = self.engine.wrap(net)
            self.engine.backward(estimate(net, call, x, y, name))
            assert net.theta.grad is not None
            with torch.no_grad():
                net.theta[1] = 0.25
            shared = [gate.theta.item() for gate in net.gates()]
            found[name] = self.engine.mean(net.theta.grad), gradients(net), shared
        return found

    def normal_weights(self) -> dict[str, Any]:
        """Gradients of weights that hardly vary; and a run with a removal in which they do, in each by itself."""
        found: dict[str, Any] = {"quiet": {}}
        for pattern in PATTERNS:
            net = quiet()
            net.weights_posterior.cache_variances(learn=True)  # type: ignore[union-attr]
            self.step(net, self.engine.wrap(net), gates(pattern))
            net.add_gradients()
            found["quiet"][pattern] = gradients(net)
        net = network(slab="normal")
        optimizer, call = torch.optim.Adam(net.parameter_groups(), lr=0.1), self.engine.wrap(net)
        start = {key: value.clone() for key, value in net.net.state_dict().items()}
        torch.manual_seed(self.engine.rank)
        for number in range(8):
            if number == 5:
                old = net.trained()
                smaller, index = shrink(net.net, {"4": torch.tensor([True])})
                net.replace(smaller, kept_gates(net.net, index))
                remap_optimizer(optimizer, old, net.trained(), index)
                call = self.engine.wrap(net)
            net.weights_posterior.cache_variances(learn=number % 2 == 1)  # type: ignore[union-attr]
            self.step(net, call, gates(SEQUENCE[number % 4])[:, : net.num_gates])
            net.refresh()
            net.add_gradients()
            optimizer.step()
        end = {key: value.clone() for key, value in net.net.state_dict().items()}
        return {**found, "start": start, "end": end, "price": net.price, "noise": torch.randn(3)}

    def wrapped_again(self) -> dict[str, Any]:
        net = network()
        wrappers, found = [], {}
        for _ in range(3):
            call = self.engine.wrap(net)
            wrappers.append(weakref.ref(call))
            self.step(net, call, gates("two on"))
        found["same network"] = gradients(net)
        net = without_last(net)
        self.engine.place(net)
        call = self.engine.wrap(net)
        self.step(net, call, gates("two on")[:, :3])
        found["smaller network"] = gradients(net)
        gc.collect()
        found["left"] = sum(wrapper() is not None for wrapper in wrappers)
        found["alive"] = sum(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
        return found

    def statistics(self) -> dict[str, Any]:
        net, (x, y, _) = network(norm=True), self.part()
        with torch.no_grad():
            net.theta.fill_(0.5 + self.engine.rank / 8)
        call = self.engine.wrap(net)
        for inputs in (x, x.square()):
            mean_loss(net, call, inputs, y, gates("all on"))
        own = {name: value.clone() for name, value in net.named_buffers()}
        self.engine.average_statistics(net)
        return {"own": own, "averaged": dict(net.named_buffers()), "theta": net.theta.tolist()}

    def disagreement(self) -> list[str]:
        first, messages = self.engine.is_main, []
        value = torch.linspace(0, 1, 5)
        last_bit = torch.nextafter(value, value + (not first))
        cases = {
            "θ": (value, value),
            "the bits": (value, last_bit),
            "the shape": (value, value[:, None]),
            "the dtype": (value, value.half()),
        }
        for what, (mine, theirs) in cases.items():
            try:
                self.engine.agree(what, mine if first else theirs)
                messages.append("agreed")
            except RankError as error:
                messages.append(str(error))
        return messages

    def exchanged(self) -> dict[str, Any]:
        engine, rank = self.engine, self.engine.rank
        own = torch.tensor([1.0, 2.0]) * (rank + 1)
        found = {"mean": engine.mean(own), "own": own, "gather": engine.gather({"rank": rank, "own": own})}
        engine.barrier()
        return {**found, "broadcast": engine.broadcast(("from", rank)), "describe": engine.describe()}

    def compiled(self) -> dict[str, Any]:
        torch.compile = partial(torch.compile, backend="eager")
        self.engine = Engine("cpu", compile=True)
        net = network()
        self.engine.place(net)
        self.step(net, self.engine.wrap(net), gates("two on"))
        return {"gradients": gradients(net), "failed": not self.engine.describe()["compiled"]}


if __name__ == "__main__":
    process = Process()
    names = ["weight_gradients", "training", "theta_gradients", "wrapped_again", "statistics"]
    names += ["normal_weights", "disagreement", "exchanged", "compiled"]
    results = {name: getattr(process, name)() for name in names}
    torch.save(results, Path(sys.argv[1]) / f"{process.engine.rank}.pt")
