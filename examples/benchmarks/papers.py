"""Numbers that papers, or the code beside them, give for MNIST, and ours: one row each.

    python examples/benchmarks/papers.py [NAME ...]

Nothing is tuned: options are those of the papers where they say some, lengths are ours, and the test set is read at the
end of each run alone. Papers without a number for MNIST have none here.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

import bayesprune as bp
from bayesprune.layers import Gate
from bayesprune.methods import get_method

BATCH, SEED = 256, 0


def relus(*widths: int, gates: bool = False) -> nn.Sequential:
    """A network of linear layers and ReLUs for images of MNIST.

    Args:
        widths: From inputs to classes.
        gates: Whether hidden units have gates.
    """
    net = nn.Sequential(nn.Flatten())
    for n, m in pairwise(widths[:-1]):
        net.extend([nn.Linear(n, m), nn.ReLU(), *([Gate(m)] if gates else [])])
    return net.append(nn.Linear(widths[-2], widths[-1]))


def lenet5() -> nn.Sequential:
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5x5, 500 units."""
    filters = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*filters, *relus(800, 500, 10))


def trained(net: nn.Module, method: str, epochs: int, lr: float = 1e-3, **options: object) -> str:
    """What is left, and the test accuracy, in a line.

    Args:
        net: The network.
        method: Name of what prunes it.
        epochs: How long.
        lr: The peak learning rate.
        options: Of the method.
    """
    torch.manual_seed(SEED)
    splits = bp.data.load("mnist", data_dir=os.environ.get("BAYESPRUNE_DATA", "data"))
    train, test = bp.data.loaders(splits, batch_size=BATCH, seed=SEED)
    example = next(iter(test))[0][:1]
    start = bp.cost(net, example).params
    began = time.process_time()
    settings = bp.training.Settings(lr=lr)
    history = bp.fit(net, train, epochs=epochs, method=get_method(method, **options), settings=settings)
    seconds = time.process_time() - began
    score = bp.training.evaluate(net, test)
    weights = [parameter.flatten(1) for parameter in net.parameters() if parameter.dim() > 1]
    left, units = sum(int((w != 0).sum()) for w in weights), [int((w != 0).any(0).sum()) for w in weights]
    work = history.charged / (3 * epochs * len(splits.train) * start)
    return (
        f"{left:,} weights, units {'-'.join(map(str, units))}, {100 * score.accuracy:.2f} %; {epochs} epochs, "
        f"{seconds:.0f} s of CPU, {work:.2f} of the multiply-adds of dense training"
    )


ROWS: dict[str, tuple[str, Callable[[], str]]] = {
    "none": (
        "LeNet-300-100 in the code of DropNeuron, 100 epochs: 266,200 weights, 98.12 %",
        lambda: trained(relus(784, 300, 100, 10), "none", 25),
    ),
    "dropneuron": (
        "LeNet-300-100 in its code, 100 epochs: 26,386 weights, units 542-83-61, 98.17 %",
        lambda: trained(relus(784, 300, 100, 10, gates=True), "dropneuron", 100, until=0.9),
    ),
    "dropneuron, l1": (
        "LeNet-300-100 in its code, single weights penalised alone: 31,909 weights, units 572-140-89, 97.98 %",
        lambda: trained(relus(784, 300, 100, 10, gates=True), "dropneuron", 100, groups=0.0, until=0.9),
    ),
    "dropnet": (
        "784-40-40-10 in the paper: 60 % of the units may go without a significant loss",
        lambda: trained(relus(784, 40, 40, 10, gates=True), "dropnet", 48, lr=5e-3, share=0.2, cycles=6),
    ),
    "dropnet, dense": (
        "784-40-40-10: the control for it, as long as one of its six cycles",
        lambda: trained(relus(784, 40, 40, 10), "none", 8, lr=5e-3),
    ),
    "dropnet, small": (
        "784-14-14-10: what is left of it, from a fresh start",
        lambda: trained(relus(784, 14, 14, 10), "none", 8, lr=5e-3),
    ),
    "sparse_vd": (
        "LeNet-300-100 in its code: 68 times fewer weights, 98.08 %",
        lambda: trained(relus(784, 300, 100, 10), "sparse_vd", 25, until=0.8),
    ),
    "sparse_vd, as small": (
        "the same",
        lambda: trained(relus(784, 300, 100, 10), "sparse_vd", 25, until=0.8, sparsity=1 - 1 / 68),
    ),
    "sparse_vd, lenet5": (
        "LeNet-5 in its code: 280 times fewer weights, 99.25 %",
        lambda: trained(lenet5(), "sparse_vd", 25, until=0.8, sparsity=1 - 1 / 280),
    ),
    "l0": (
        "784-300-100-10: no number; a tenth of the multiply-adds",
        lambda: trained(relus(784, 300, 100, 10, gates=True), "l0", 25, macs=0.1),
    ),
    "targeted_units": (
        "784-300-100-10: no number; a tenth of the multiply-adds",
        lambda: trained(relus(784, 300, 100, 10, gates=True), "targeted_units", 25, macs=0.1),
    ),
    "movement": (
        "784-300-100-10 with 5 % of the weights: no number for MNIST",
        lambda: trained(relus(784, 300, 100, 10), "movement", 25, sparsity=0.95),
    ),
    "magnitude": (
        "784-300-100-10 with 5 % of the weights: the control for it",
        lambda: trained(relus(784, 300, 100, 10), "magnitude", 25, sparsity=0.95),
    ),
    "net_trim": (
        "784-300-1000-300-10 in its demonstrations, without numbers",
        lambda: trained(relus(784, 300, 1000, 300, 10), "net_trim", 6, epsilon=0.08, examples=2000),
    ),
    "net_trim, cascade": (
        "784-300-100-10: no number",
        lambda: trained(relus(784, 300, 100, 10), "net_trim", 12, epsilon=0.08, cascade=True),
    ),
    "layerwise_l0": (
        "LeNet-300-100 with 5 % of the weights: no number (an abstract)",
        lambda: trained(relus(784, 300, 100, 10), "layerwise_l0", 12, sparsity=0.95),
    ),
    "factorised": (
        "784-300-100-10 as factors of 4 bits and an eighth of the weights: no number for MNIST",
        lambda: trained(relus(784, 300, 100, 10), "factorised", 12, share=0.125, bits=4),
    ),
}


def main() -> None:
    """All rows, or those that are named."""
    for name in sys.argv[1:] or ROWS:
        theirs, run = ROWS[name]
        print(f"{name}\n  theirs: {theirs}\n  ours:   {run()}", flush=True)


if __name__ == "__main__":
    main()
