"""Cost of one training step of `fit`, relative to the same network without gates in a plain PyTorch loop.

    python examples/benchmarks/step.py
    python examples/benchmarks/step.py --slab normal

Both steps see the same batch, run in turn in blocks, and use the same optimiser (fused Adam). The ratio is the median
over blocks of the ratio of mean times in a block (means, so that rare costly steps count). θ stays at its initial
value, so nothing is pruned: this is the step at the start.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from report import machine, table
from torch import nn

import bayesprune as bp
from bayesprune.data.spans import Span
from bayesprune.layers import Gate, Linear, Residual
from bayesprune.methods.protocol import Batch
from bayesprune.methods.svi.method import SVI
from bayesprune.training.engine import Engine
from bayesprune.training.trainer import Trainer

REFRESH = 117
"""Steps between two looks of the prior at θ: four an epoch of 60,000 examples in batches of 128."""


class Block(nn.Module):
    """The ungated counterpart of `Residual`."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The by-pass plus the branch."""
        return x + self.body(x)


def without_gates(net: nn.Sequential) -> nn.Sequential:
    """The same network in plain PyTorch."""
    layers: list[nn.Module] = []
    for module in net:
        if isinstance(module, Gate):
            continue
        if isinstance(module, Residual):
            layers.append(Block(module.body))
        elif isinstance(module, Linear):
            layers.append(nn.Linear(module.in_features, module.out_features))
        else:
            layers.append(module)
    return nn.Sequential(*layers)


class Repeat:
    """A loader that gives the same batch again and again."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, steps: int):
        self.batch, self.steps = (x, y), steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        return iter([self.batch])


def seconds_a_step(step, count: int) -> float:
    """Mean seconds of ``count`` calls."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def compare(
    net: nn.Sequential, slab: str, batch: int, blocks: int, steps: int, every: int
) -> tuple[float, float, float]:
    """Median milliseconds of the plain and the gated step, and the median ratio."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    plain = copy.deepcopy(without_gates(net))
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=1e-9, fused=True)

    def plain_step() -> None:
        loss = nn.functional.cross_entropy(plain(x), y)
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()

    bnn = bp.BayesianNet(net, num_data=60_000, prior=bp.distributions.FlatteningPrior(18.0), weights=slab)
    endless = Repeat(x, y, 10**9)  # so long a run that θ rests
    settings = bp.training.Settings(lr=1e-9, every=every, schedule={"sample_from": 0.0})
    trainer = Trainer(bnn, endless, 1, False, settings, Engine(), SVI(settings))

    def gated_step() -> None:
        trainer.train_step(Batch(x, y, Span(batch, 0, batch)))
        if trainer.step % REFRESH == 0:
            bnn.refresh()

    for step in (plain_step, gated_step):
        seconds_a_step(step, steps)
    pairs = [(seconds_a_step(plain_step, steps), seconds_a_step(gated_step, steps)) for _ in range(blocks)]
    ratio = statistics.median(gated / plain for plain, gated in pairs)
    return statistics.median(p for p, _ in pairs) * 1e3, statistics.median(g for _, g in pairs) * 1e3, ratio


def main() -> None:
    """Compare all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=bp.training.Settings().every)
    parser.add_argument("--slab", default="point", choices=["point", "normal"])
    options = parser.parse_args()
    hidden = bp.networks.lenet300()
    del hidden[1]
    cases = [
        ("LeNet-300-100, gates on hidden units alone, batch 128", hidden, 128),
        ("LeNet-300-100, batch 128", bp.networks.lenet300(), 128),
        ("residual MLP, 20 layers of 256, batch 32", bp.networks.resmlp(depth=20, width=256), 32),
        ("residual MLP, 10 layers of 64, batch 32", bp.networks.resmlp(depth=10), 32),
        ("residual MLP, 100 layers of 64, batch 32", bp.networks.resmlp(depth=100), 32),
    ]
    rows = []
    for name, net, batch in cases:
        plain, gated, ratio = compare(net, options.slab, batch, options.blocks, options.steps, options.every)
        rows.append([name, f"{plain:.2f}", f"{gated:.2f}", f"{gated - plain:+.2f}", f"{ratio:.2f}"])
    print(machine())
    print(table(["network", "plain ms", "gated ms", "difference ms", "ratio"], rows))


if __name__ == "__main__":
    main()
