"""Variable selection: inclusion probabilities against the exact ones, and power with more inputs than examples.

    python examples/benchmarks/selection.py

Every method takes a regression and the model behind it and gives inclusion probabilities; each is a column. The first
table is on problems so small that all models can be enumerated, with coefficients of three standard errors; the second
on the p > n setting of sparse recovery. `friedman.py` goes on with a function that is not linear and the methods of
others.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from report import machine, table
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import bayesprune as bp
from bayesprune import layers, selection
from bayesprune.infer import Gaussian
from bayesprune.selection import SelectionProblem
from bayesprune.training import Settings

CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
WIDE = ((200, 0.0), (200, 0.6), (1000, 0.0), (1000, 0.6))
WIDE_SEEDS = 5
"""Data sets of the second table at most, where networks take longer."""
PHASES = {"settle_from": 0.3}
"""No sampled gradients: with so few examples exact differences cost no more than a step."""


@dataclass(frozen=True)
class Setting:
    """What a method is told of the data: the priors of `selection.enumerate_models`."""

    inclusion: float
    slab_scale: float = 1.0
    noise_scale: float = 1.0


Method = Callable[[SelectionProblem, Setting], Tensor]


def mean_field(problem: SelectionProblem, setting: Setting) -> Tensor:
    """Inclusion probabilities at the optimum of the mean-field family."""
    return selection.mean_field(problem.x, problem.y, **vars(setting)).inclusion


def network(problem: SelectionProblem, setting: Setting) -> Tensor:
    """Inclusion probabilities of the gates on the inputs of a linear network, intercept as `mean_field` has it.

    At the start no more inputs are on than half as many as there are rows, as in `bayesprune.sklearn`.
    """
    torch.manual_seed(0)
    rows, inputs = problem.x.shape
    gate = layers.Gate(inputs, theta=min(0.9, rows / (2 * inputs)))
    x, y = problem.x - problem.x.mean(0), problem.y - problem.y.mean()  # a flat prior of the intercept, integrated out
    settings = Settings(lr=2e-2, every=1, schedule=PHASES)
    return trained(nn.Sequential(gate, nn.Linear(inputs, 1)), x, y, setting, 600, settings)


def trained(net: nn.Module, x: Tensor, y: Tensor, setting: Setting, epochs: int, settings: Settings) -> Tensor:
    """Train a network whose first layer is a gate on the inputs, on full batches; its θ."""
    bnn = bp.BayesianNet(
        net,
        Gaussian(setting.noise_scale),
        num_data=len(x),
        prior=bp.distributions.FixedInclusion(setting.inclusion),
        weights="normal",
        slab_scale=setting.slab_scale,
    )
    data = TensorDataset(x, y[:, None])
    loader = DataLoader(data, sampler=BatchSampler(RandomSampler(data), len(x), drop_last=False), batch_size=None)
    bp.fit(bnn, loader, epochs=epochs, prune=False, settings=settings)
    return bnn.gate_probs()["0"]


METHODS: dict[str, Method] = {"mean field": mean_field, "network": network}


def orthogonal(num_data: int, num_inputs: int, num_active: int, *, effect: float, seed: int) -> SelectionProblem:
    """A regression on inputs that are orthogonal in the sample, of mean 0 and variance 1."""
    drawn = selection.sparse_regression(num_data, num_inputs, num_active, effect=effect, seed=seed)
    noise = drawn.y - drawn.x @ drawn.coefficients
    x = torch.linalg.qr(drawn.x - drawn.x.mean(0)).Q * math.sqrt(num_data)
    return SelectionProblem(x, x @ drawn.coefficients + noise, drawn.support, drawn.coefficients)


def deviations(problems: list[SelectionProblem], methods: dict[str, Method], setting: Setting) -> dict[str, Tensor]:
    """|inclusion probability − exact| of each method, shape ``(problems, d)``."""
    exact = [selection.enumerate_models(problem.x, problem.y, **vars(setting)).inclusion for problem in problems]
    return {
        name: torch.stack([(method(p, setting) - e).abs() for p, e in zip(problems, exact, strict=True)])
        for name, method in methods.items()
    }


def recoveries(problems: list[SelectionProblem], methods: dict[str, Method], setting: Setting) -> dict[str, Tensor]:
    """Power and false discovery proportion of each method's selection at 10 %, shape ``(problems, 2)``."""
    return {
        name: torch.tensor(
            [selection.power_and_fdr(selection.select(method(p, setting), 0.1), p.support) for p in problems]
        )
        for name, method in methods.items()
    }


def deviation_table(methods: dict[str, Method], seeds: range) -> str:
    """Mean and largest deviation over all inputs of all seeds, d = 8, n = 100, three inputs active."""
    setting = Setting(inclusion=3 / 8)
    cases = {"orthogonal": [orthogonal(100, 8, 3, effect=0.3, seed=seed) for seed in seeds]}
    for correlation in CORRELATIONS:
        cases[f"AR(1), {correlation}"] = [
            selection.sparse_regression(100, 8, 3, correlation=correlation, effect=0.3, seed=seed) for seed in seeds
        ]
    rows = []
    for case, problems in cases.items():
        found = deviations(problems, methods, setting).values()
        rows.append([case, *(f"{float(value):.3f}" for each in found for value in (each.mean(), each.max()))])
    return table(["inputs", *(f"{name}: {figure}" for name in methods for figure in ("mean", "largest"))], rows)


def recovery_table(methods: dict[str, Method], seeds: range) -> str:
    """Mean power and false discovery rate, n = 100, five inputs active."""
    rows = []
    for inputs, correlation in WIDE:
        problems = [
            selection.sparse_regression(100, inputs, 5, correlation=correlation, effect=0.5, seed=seed)
            for seed in seeds[:WIDE_SEEDS]
        ]
        found = recoveries(problems, methods, Setting(inclusion=5 / inputs)).values()
        rows.append(
            [str(inputs), f"{correlation}", *(f"{value:.2f}" for each in found for value in each.mean(0).tolist())]
        )
    return table(["p", "AR(1)", *(f"{name}: {figure}" for name in methods for figure in ("power", "FDR"))], rows)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="data sets a row")
    seeds = range(parser.parse_args().seeds)
    print(machine())
    print(f"\nDeviation from the exact inclusion probabilities, {len(seeds)} data sets a row\n")
    print(deviation_table(METHODS, seeds), flush=True)
    print(f"\nSelection at an expected false discovery rate of 10 %, {len(seeds[:WIDE_SEEDS])} data sets a row\n")
    print(recovery_table(METHODS, seeds), flush=True)


if __name__ == "__main__":
    main()
