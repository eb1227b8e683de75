"""Accuracy against size on MNIST, several seeds, from the usual and from twice the width.

    python examples/benchmarks/mnist.py lenet300 --data-dir DIR
    python examples/benchmarks/mnist.py lenet5 --data-dir DIR
    python examples/benchmarks/mnist.py resmlp --data-dir DIR
    python examples/benchmarks/mnist.py resmlp --starts usual --budget macs=0.5 --data-dir DIR

One training run a row, on all 60,000 training images unless limited; nothing is chosen on the test set. Accuracy is
that of the compacted network on the 10,000 test images; it is also computed with the gated network, and the script
fails if the two differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from report import machine, table

import bayesprune as bp
from bayesprune.infer import Categorical
from bayesprune.pruning import CostPrice
from bayesprune.training import Budget


@dataclass(frozen=True)
class Case:
    """How long one network is trained, as is recommended for it, and what its double width is."""

    epochs: int
    wide: dict
    params: float = 0.5
    channels_last: bool = False


CASES = {
    "lenet300": Case(epochs=40, wide={"widths": (600, 200)}),
    "lenet5": Case(epochs=20, wide={"widths": (40, 100, 1000)}, params=0.4, channels_last=True),
    "resmlp": Case(epochs=20, wide={"depth": 48}),
}


HEADER = ["start", "seed", "accuracy %", "parameters", "multiply-adds", "gates on", "converged"]
HEADER += ["branches computed", "seconds"]


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    accuracy: float
    params: int
    macs: int
    converged: float
    gates: str
    computed: float
    seconds: float


def run(
    name: str, case: Case, splits: bp.data.Splits, seed: int, wide: bool, epochs: int, budget: Budget | None
) -> Outcome:
    """Train once, under a budget or at the case's price, and compact."""
    torch.manual_seed(seed)
    build = bp.networks.NETWORKS[name]
    example = torch.zeros(1, *splits.input_shape)
    reference = bp.cost(build(splits.input_shape, splits.num_classes), example)
    net = build(splits.input_shape, splits.num_classes, **(case.wide if wide else {}))
    if case.channels_last:
        net = net.to(memory_format=torch.channels_last)
    recipe, count = bp.recommended(net), len(splits.train)
    train, test = bp.data.loaders(splits, recipe.batch_size, seed)
    likelihood = Categorical(recipe.label_smoothing)
    bnn = bp.BayesianNet(net, likelihood, num_data=count, weight_precision=recipe.weight_decay * count)
    layers = bnn.num_branches == bnn.num_gates
    began = time.perf_counter()
    price = None if budget else CostPrice(recipe.price, case.params, reference)
    settings = recipe.settings(price=price, budget=budget)
    history = bp.fit(bnn, train, epochs=epochs, settings=settings)
    seconds = time.perf_counter() - began
    small = bp.compact(bnn)
    accuracy = bp.training.evaluate(small, test).accuracy
    gated = bp.training.evaluate(bnn, test).accuracy
    if accuracy != gated:
        raise SystemExit(f"compaction changed the accuracy from {gated} to {accuracy}")
    size = bp.cost(small, example)
    gates = "-".join(str(int((theta > 0.5).sum())) for theta in bnn.gate_probs().values())
    if layers:
        gates = f"{sum(int(g) for g in gates.split('-') if g)} branches"
    return Outcome(
        accuracy, size.params, size.macs, history.rows[-1].gates_converged, gates, history.branches_computed, seconds
    )


def main() -> None:
    """Run what the command line asks for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=sorted(CASES))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="*", default=["usual", "double"], choices=["usual", "double"])
    parser.add_argument("--epochs", type=int, help="instead of the case's")
    parser.add_argument("--budget", type=Budget.parse, help="such as macs=0.5, instead of the case's price")
    parser.add_argument("--limit", type=int, help="number of training images, instead of all")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    case = CASES[options.net]
    epochs = options.epochs or case.epochs
    splits = bp.data.load("mnist", data_dir=options.data_dir, limit=options.limit)
    dense_net = bp.networks.NETWORKS[options.net](splits.input_shape, splits.num_classes)
    dense = bp.cost(dense_net, torch.zeros(1, *splits.input_shape))
    print(machine(), flush=True)
    print(f"{options.net}, {epochs} epochs, {options.budget or f'nu {bp.recommended(dense_net).price}'}", flush=True)
    print(f"dense: {dense.params} parameters, {dense.macs} multiply-adds", flush=True)
    rows, outcomes = [], []
    for start in options.starts:
        for seed in options.seeds:
            o = run(options.net, case, splits, seed, start == "double", epochs, options.budget)
            outcomes.append(o)
            row = [start, str(seed), f"{100 * o.accuracy:.2f}", f"{o.params} ({100 * o.params / dense.params:.2f} %)"]
            row += [f"{100 * o.macs / dense.macs:.2f} %", o.gates, f"{100 * o.converged:.2f} %"]
            rows.append([*row, f"{100 * o.computed:.0f} %", f"{o.seconds:.0f}"])
            print(rows[-1], flush=True)
        last = outcomes[-len(options.seeds) :]
        params = statistics.mean(o.params for o in last)
        row = [f"**{start}, mean**", "", f"{100 * statistics.mean(o.accuracy for o in last):.2f}"]
        row += [f"{params:.0f} ({100 * params / dense.params:.2f} %)"]
        row += [f"{100 * statistics.mean(o.macs for o in last) / dense.macs:.2f} %", "", ""]
        row += [f"{100 * statistics.mean(o.computed for o in last):.0f} %"]
        rows.append([*row, f"{statistics.mean(o.seconds for o in last):.0f}"])
    print(table(HEADER, rows))
    spread = max(o.params for o in outcomes) / min(o.params for o in outcomes) - 1
    points = 100 * (max(o.accuracy for o in outcomes) - min(o.accuracy for o in outcomes))
    print(f"over all runs: parameters vary by {100 * spread:.1f} %, accuracy by {points:.2f} points")


if __name__ == "__main__":
    main()
