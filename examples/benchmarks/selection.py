"""Variable selection: inclusion probabilities against the exact ones, and power with more inputs than examples.

    python examples/benchmarks/selection.py

Every method takes a regression and the model behind it and gives inclusion probabilities; each is a column. The first
table is on problems so small that all models can be enumerated, with coefficients of three standard errors; the second
on the p > n setting of sparse recovery; the third on Friedman's regression, which is not linear, with many inputs that
say nothing, beside the lasso, stepwise regression and the importances of a random forest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from report import machine, table
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_selection import SelectFromModel, SelectorMixin, SequentialFeatureSelector
from sklearn.linear_model import LassoCV, LinearRegression
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import bayesprune as bp
from bayesprune import layers, selection
from bayesprune.infer import Gaussian
from bayesprune.selection import SelectionProblem
from bayesprune.training import Settings

CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
WIDE = ((200, 0.0), (200, 0.6), (1000, 0.0), (1000, 0.6))
FRIEDMAN = (50, 200)
WIDE_SEEDS, FRIEDMAN_SEEDS = 5, 3
"""Data sets of the second and the third table at most, where networks take longer."""
HIDDEN = 20
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


def hidden_network(problem: SelectionProblem, setting: Setting) -> Tensor:
    """Inclusion probabilities of the inputs of a network with one hidden layer, all standardised.

    Gates start at ½: with nearly all inputs on, a hidden layer fits the noise with those that say nothing, and each
    then has evidence of its own.
    """
    torch.manual_seed(0)
    inputs, spread = problem.x.shape[1], float(problem.y.std())
    net = nn.Sequential(layers.Gate(inputs, theta=0.5), nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    x, y = (problem.x - problem.x.mean(0)) / problem.x.std(0), (problem.y - problem.y.mean()) / spread
    scaled = Setting(setting.inclusion, setting.slab_scale, setting.noise_scale / spread)
    return trained(net, x, y, scaled, 1000, Settings(lr=5e-3, every=1, schedule=PHASES))


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


def chosen_by(selector: SelectorMixin, problem: SelectionProblem) -> Tensor:
    """1 for the inputs that a selector of scikit-learn keeps and 0 for others."""
    x = (problem.x - problem.x.mean(0)) / problem.x.std(0)
    return torch.from_numpy(selector.fit(x.numpy(), problem.y.numpy()).get_support()).float()


def lasso(problem: SelectionProblem, setting: Setting) -> Tensor:
    """Coefficients that are not 0, the penalty by cross-validation."""
    return chosen_by(SelectFromModel(LassoCV(random_state=0)), problem)


def stepwise(problem: SelectionProblem, setting: Setting) -> Tensor:
    """Forward selection while the cross-validated R² of a linear model rises by a hundredth."""
    return chosen_by(SequentialFeatureSelector(LinearRegression(), tol=0.01), problem)


def importances(x: Tensor, y: Tensor) -> Any:
    """Those of a random forest, by impurity."""
    forest = RandomForestRegressor(100, max_features=0.3, min_samples_leaf=5, random_state=0)
    return forest.fit(x.numpy(), y.numpy()).feature_importances_


def forest(problem: SelectionProblem, setting: Setting) -> Tensor:
    """Importances above the mean one, scikit-learn's default rule."""
    found = torch.from_numpy(importances(problem.x, problem.y))
    return (found > found.mean()).float()


def knockoffs(problem: SelectionProblem, setting: Setting) -> Tensor:
    """The same importances against those of knock-offs, at a false discovery rate of 20 %, the least for five."""
    return selection.knockoff_filter(problem.x, problem.y, importances, fdr=0.2).selected.float()


METHODS: dict[str, Method] = {"mean field": mean_field, "network": network}
CURVED: dict[str, Method] = {
    "linear mean field": mean_field,
    "network": hidden_network,
    "lasso": lasso,
    "stepwise": stepwise,
    "forest": forest,
    "forest, knock-offs": knockoffs,
}


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


def friedman_table(methods: dict[str, Method], seeds: range) -> str:
    """Mean power and false discovery rate on Friedman's function of five inputs, n = 300.

    Probabilities are selected at 10 %; the methods of others choose by their own rules.
    """
    rows = []
    for inputs in FRIEDMAN:
        problems = [selection.friedman_regression(300, inputs, seed=seed) for seed in seeds[:FRIEDMAN_SEEDS]]
        found = recoveries(problems, methods, Setting(inclusion=5 / inputs)).values()
        rows.append([str(inputs), *(f"{value:.2f}" for each in found for value in each.mean(0).tolist())])
    return table(["inputs", *(f"{name}: {figure}" for name in methods for figure in ("power", "FDR"))], rows)


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
    print(f"\nThe same on Friedman's regression, {len(seeds[:FRIEDMAN_SEEDS])} data sets a row\n")
    print(friedman_table(CURVED, seeds))


if __name__ == "__main__":
    main()
