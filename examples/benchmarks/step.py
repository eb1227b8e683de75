"""Cost of one training step of `fit`, relative to the same network without gates in a plain PyTorch loop.

    python examples/benchmarks/step.py
    python examples/benchmarks/step.py --slab normal
    python examples/benchmarks/step.py --converted --blocks 5 --steps 3

Both steps see the same batch, run in turn in blocks, and use the same optimiser (fused Adam). The ratio is the median
over blocks of the ratio of mean times in a block (means, so that rare costly steps count). θ stays at its initial
value, so nothing is pruned: this is the step at the start. With `--converted` the networks are torchvision's, for 32
images of 64 x 64, as `bp.convert` makes them, and twice: with all gates on, θ being 1, and at the start.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterator

import torch
from report import machine, table
from torch import nn

import bayesprune as bp
from bayesprune.data.spans import Span
from bayesprune.layers import Gate, Linear, Residual
from bayesprune.layers.gate import INITIAL_THETA
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
    """Mean seconds of ``count`` calls, of the processor's time, which others do not take away."""
    began = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - began) / count


def compare(
    plain: nn.Module, net: nn.Module, data: tuple[torch.Tensor, torch.Tensor], options: argparse.Namespace
) -> tuple[float, float, float]:
    """Median milliseconds of the plain and the gated step, and the median ratio."""
    x, y = data
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=1e-9, fused=True)

    def plain_step() -> None:
        loss = nn.functional.cross_entropy(plain(x), y)
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()

    prior = bp.distributions.FlatteningPrior(18.0)
    bnn = bp.BayesianNet(net, num_data=60_000, prior=prior, weights=options.slab, example_input=x[:1])
    endless = Repeat(x, y, 10**9)  # so long a run that θ rests
    settings = bp.training.Settings(lr=1e-9, every=options.every, schedule={"sample_from": 0.0})
    trainer = Trainer(bnn, endless, 1, False, settings, Engine(), SVI(settings))

    def gated_step() -> None:
        trainer.train_step(Batch(x, y, Span(len(x), 0, len(x))))
        if trainer.step % REFRESH == 0:
            bnn.refresh()

    for step in (plain_step, gated_step):
        seconds_a_step(step, options.steps)
    pairs = [
        (seconds_a_step(plain_step, options.steps), seconds_a_step(gated_step, options.steps))
        for _ in range(options.blocks)
    ]
    ratio = statistics.median(gated / plain for plain, gated in pairs)
    return statistics.median(p for p, _ in pairs) * 1e3, statistics.median(g for _, g in pairs) * 1e3, ratio


def digits(batch: int, side: int = 28, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and classes."""
    torch.manual_seed(0)
    return torch.randn(batch, channels, side, side), torch.randint(0, 10, (batch,))


def written() -> Iterator[tuple[str, nn.Module, nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """Networks of gated layers, with their plain counterparts and a batch."""
    hidden = bp.networks.lenet300()
    del hidden[1]
    for name, net, batch in (
        ("LeNet-300-100, gates on hidden units alone, batch 128", hidden, 128),
        ("LeNet-300-100, batch 128", bp.networks.lenet300(), 128),
        ("residual MLP, 20 layers of 256, batch 32", bp.networks.resmlp(depth=20, width=256), 32),
        ("residual MLP, 10 layers of 64, batch 32", bp.networks.resmlp(depth=10), 32),
        ("residual MLP, 100 layers of 64, batch 32", bp.networks.resmlp(depth=100), 32),
    ):
        yield name, copy.deepcopy(without_gates(net)), net, digits(batch)


def converted() -> Iterator[tuple[str, nn.Module, nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """Networks of torchvision, converted, with all gates on and at the start."""
    from torchvision import models

    data = digits(32, 64, 3)
    for name, make in (
        ("ResNet-18", models.resnet18),
        ("MobileNetV2", models.mobilenet_v2),
        ("ConvNeXt-tiny", models.convnext_tiny),
        ("ViT-tiny", lambda **given: models.VisionTransformer(64, 8, 12, 3, 192, 768, **given)),
    ):
        for start, theta in (("all gates on", 1.0), ("at the start", INITIAL_THETA)):
            plain = make(num_classes=10).train()
            yield f"{name}, {start}", plain, bp.convert(plain, theta=theta, example_input=data[0][:2]), data


def main() -> None:
    """Compare all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=bp.training.Settings().every)
    parser.add_argument("--slab", default="point", choices=["point", "normal"])
    parser.add_argument("--converted", action="store_true", help="torchvision's networks")
    options = parser.parse_args()
    rows = []
    for name, plain_net, net, data in converted() if options.converted else written():
        plain, gated, ratio = compare(plain_net, net, data, options)
        rows.append([name, f"{plain:.2f}", f"{gated:.2f}", f"{gated - plain:+.2f}", f"{ratio:.2f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    print(machine())
    print(table(["network", "plain ms", "gated ms", "difference ms", "ratio"], rows))


if __name__ == "__main__":
    main()
