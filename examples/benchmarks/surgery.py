"""What surgery costs: compacting a ResNet-50, and removing one branch of a ResNet-56 in the middle of training.

    python examples/benchmarks/surgery.py
    python examples/benchmarks/surgery.py --converted resnet50 vit_b_16

A removal takes everything that training does then: a smaller network, its optimiser state, its prices. What it saves is
the time of that branch in every step of an epoch of 390 batches, measured as the difference between steps with and
without it. With ``--converted`` networks of torchvision's are converted for images of 224 x 224, and compacted with
30 % of their gates off at random: processor time of one thread, medians of three.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from report import machine, table
from torchvision import models

import bayesprune as bp
from bayesprune.data.spans import Span
from bayesprune.methods.protocol import Batch
from bayesprune.methods.svi.method import SVI
from bayesprune.pruning import CostPrice
from bayesprune.training import Engine, Settings
from bayesprune.training.trainer import Trainer

BATCH, STEPS, REPEATS = 128, 390, 5


class Repeat:
    """A loader that gives the same batch again and again."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.batch = x, y

    def __len__(self) -> int:
        return STEPS

    def __iter__(self):
        return iter([self.batch])


def seconds(function) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def compaction() -> tuple[float, float]:
    """Seconds of compacting ResNet-50 with half of its branches off, best and median."""
    net = bp.networks.resnet50()
    for number, gate in enumerate(bp.layers.gates_of(net).values()):
        torch.nn.init.constant_(gate.theta, number % 2)
    times = [seconds(lambda: bp.compact(net)) for _ in range(REPEATS)]
    return min(times), statistics.median(times)


def removal() -> tuple[float, float]:
    """Seconds of removing one branch of ResNet-56, and what an epoch without it takes less, medians."""
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    bnn = bp.BayesianNet(bp.networks.resnet(56), num_data=50_000)
    with torch.no_grad():
        bnn.theta.fill_(1.0)
    settings = Settings(price=CostPrice(0.1), optimizer=partial(torch.optim.SGD, momentum=0.9), lr=1e-9)
    method = SVI(settings)
    trainer = Trainer(bnn, Repeat(x, y), 10, True, settings, Engine(), method)
    trainer.net.train()
    removals, savings = [], []
    for _ in range(REPEATS):
        before = [seconds(lambda: trainer.train_step(Batch(x, y, Span(BATCH, 0, BATCH)))) for _ in range(4)]
        with torch.no_grad():
            bnn.theta[1] = 0.0
        method.sampler.synchronize()
        after = [seconds(lambda: trainer.train_step(Batch(x, y, Span(BATCH, 0, BATCH)))) for _ in range(4)]
        method.updates.net_cost.fill_(1.0)
        method.removal.monitor.agreed.fill_(settings.patience - 1)
        removals.append(seconds(lambda: method._remove(trainer, bnn, 1)))
        savings.append(STEPS * (statistics.median(before) - statistics.median(after)))
    assert bnn.num_gates == 27 - REPEATS
    return statistics.median(removals), statistics.median(savings)


def conversion(name: str) -> tuple[float, float]:
    """Processor's seconds of converting one of torchvision's networks and of compacting it, medians."""
    model, x = models.get_model(name, weights=None).eval(), torch.randn(2, 3, 224, 224)
    times = []
    for _ in range(3):
        began = time.process_time()
        net = bp.convert(model, example_input=x)
        converted = time.process_time()
        for gate in bp.layers.gates_of(net).values():
            torch.nn.init.constant_(gate.theta, 1.0).data[torch.rand(gate.size) < 0.3] = 0.0
        switched = time.process_time()
        bp.compact(net, example_input=x)
        times.append((converted - began, time.process_time() - switched))
    converting, compacting = zip(*times, strict=True)
    return statistics.median(converting), statistics.median(compacting)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--converted", nargs="+", help="names of torchvision's networks, for these alone")
    names = parser.parse_args().converted
    torch.manual_seed(0)
    print(machine(), flush=True)
    if names:
        torch.set_num_threads(1)
        rows = [[name, *(f"{seconds:.2f}" for seconds in conversion(name))] for name in names]
        print(table(["network", "convert s", "compact s"], rows))
        return
    best, median = compaction()
    took, saved = removal()
    rows = [
        ["compact ResNet-50, every second branch off", f"{median:.2f} (best {best:.2f})", "–"],
        ["remove a branch of ResNet-56 in training", f"{took:.2f}", f"{saved:.1f}"],
    ]
    print(table(["operation", "seconds", "seconds saved in every epoch"], rows))


if __name__ == "__main__":
    main()
