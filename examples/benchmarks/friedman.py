"""Which columns of Friedman's function are found among many that say nothing, beside the methods of others.

    python examples/benchmarks/friedman.py --out DIR
    python examples/benchmarks/friedman.py lasso forest --inputs 200 --seeds 20 --out DIR

The function has five inputs, one by its square, two by their product; noise 1. Every method sees the same data sets and
answers with the columns it takes to matter. Power and false discovery rate are means over data sets, with the 95 %
interval of Student's t. A data set that is done leaves a line in DIR/rows.jsonl and is not measured again.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from report import keep_row, kept_rows, machine, table
from scipy.stats import t as student
from selection import Setting, trained
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_selection import SelectFromModel, SelectorMixin, SequentialFeatureSelector
from sklearn.linear_model import LassoCV, LinearRegression
from torch import Tensor, nn

from bayesprune import layers, selection
from bayesprune.selection import SelectionProblem
from bayesprune.sklearn import BayesPruneRegressor
from bayesprune.training import Settings

ROWS = 300
ACTIVE = 5
"""How many inputs the function has."""
LEVEL = 0.2
"""False discovery rate of knock-offs: the least at which five columns can be chosen."""
CONFIDENCE = 0.95

Method = Callable[[SelectionProblem], Tensor]
"""From a data set to which of its columns matter, bool, shape ``(d,)``."""


def regressor(**settings: Any) -> BayesPruneRegressor:
    """At temperature 1, which is that of probabilities."""
    return BayesPruneRegressor(temperature=1.0, random_state=0, **settings)


def as_it_comes(problem: SelectionProblem) -> Tensor:
    """The regressor's support, without a word on how many columns may matter."""
    return torch.from_numpy(BayesPruneRegressor(random_state=0).fit(*_arrays(problem)).get_support())


def told(problem: SelectionProblem, restarts: int = 1) -> Tensor:
    """The same at temperature 1, told that five columns are expected to matter; of several starts the best one."""
    model = regressor(prior_inclusion=ACTIVE / problem.x.shape[1], restarts=restarts)
    return torch.from_numpy(model.fit(*_arrays(problem)).get_support())


def told_the_noise(problem: SelectionProblem) -> Tensor:
    """A network of 20 units, told the noise too, all standardised: columns at an expected rate of 10 % of false ones.

    Gates start at ½: with nearly all columns on, a hidden layer fits the noise with those that say nothing, and each
    then has evidence of its own.
    """
    torch.manual_seed(0)
    columns, spread = problem.x.shape[1], float(problem.y.std())
    net = nn.Sequential(layers.Gate(columns, theta=0.5), nn.Linear(columns, 20), nn.ReLU(), nn.Linear(20, 1))
    x, y = (problem.x - problem.x.mean(0)) / problem.x.std(0), (problem.y - problem.y.mean()) / spread
    settings = Settings(lr=5e-3, every=1, schedule={"settle_from": 0.3})
    return selection.select(trained(net, x, y, Setting(ACTIVE / columns, 1.0, 1 / spread), 1000, settings), 0.1)


def inclusion(x: Tensor, y: Tensor) -> NDArray:
    """Inclusion probabilities of a table and its knock-offs."""
    return regressor(prior_inclusion=ACTIVE / x.shape[1]).fit(x.numpy(), y.numpy()).inclusion_probabilities_


def importances(x: Tensor, y: Tensor) -> NDArray:
    """Those of a random forest, by impurity."""
    forest = RandomForestRegressor(100, max_features=0.3, min_samples_leaf=5, random_state=0)
    return forest.fit(x.numpy(), y.numpy()).feature_importances_


def coefficients(x: Tensor, y: Tensor) -> NDArray:
    """Sizes of the lasso's, of standardised columns."""
    x = (x - x.mean(0)) / x.std(0)
    return np.abs(LassoCV(random_state=0).fit(x.numpy(), y.numpy()).coef_)


def chosen_by(selector: SelectorMixin, problem: SelectionProblem) -> Tensor:
    """What a selector of scikit-learn keeps of the standardised columns."""
    x = (problem.x - problem.x.mean(0)) / problem.x.std(0)
    return torch.from_numpy(selector.fit(x.numpy(), problem.y.numpy()).get_support())


def lasso(problem: SelectionProblem) -> Tensor:
    """Coefficients that are not 0, the penalty by cross-validation."""
    return chosen_by(SelectFromModel(LassoCV(random_state=0)), problem)


def stepwise(problem: SelectionProblem) -> Tensor:
    """Forward selection while the cross-validated R² of a linear model rises by a hundredth."""
    return chosen_by(SequentialFeatureSelector(LinearRegression(), tol=0.01), problem)


def forest(problem: SelectionProblem) -> Tensor:
    """Importances above the mean one, scikit-learn's default rule."""
    found = torch.from_numpy(importances(problem.x, problem.y))
    return found > found.mean()


def against_knockoffs(problem: SelectionProblem, importance: Callable[[Tensor, Tensor], NDArray]) -> Tensor:
    """Columns that matter more than their knock-offs, by some importance."""
    return selection.knockoff_filter(problem.x, problem.y, importance, fdr=LEVEL).selected


METHODS: dict[str, Method] = {
    "regressor as it comes": as_it_comes,
    "regressor, temperature 1, told of five": told,
    "regressor, temperature 1, told of five, two starts": partial(told, restarts=2),
    "network, told the noise too": told_the_noise,
    "regressor, knock-offs": partial(against_knockoffs, importance=inclusion),
    "lasso": lasso,
    "lasso, knock-offs": partial(against_knockoffs, importance=coefficients),
    "stepwise": stepwise,
    "forest": forest,
    "forest, knock-offs": partial(against_knockoffs, importance=importances),
}


def measure(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Power and false discovery proportion on one data set, and the processor's seconds."""
    problem, began = selection.friedman_regression(ROWS, inputs, seed=seed), time.process_time()
    chosen = METHODS[name](problem)
    power, false = selection.power_and_fdr(chosen, problem.support)
    seconds = time.process_time() - began
    return {"method": name, "inputs": inputs, "seed": seed, "power": power, "false": false, "seconds": seconds}


def interval(values: list[float]) -> str:
    """Mean of shares and its interval, cut at 0 and 1."""
    found = np.array(values)
    if len(found) < 2:
        return f"{found.mean():.2f}"
    quantile = student.ppf(0.5 + CONFIDENCE / 2, len(found) - 1)
    half = quantile * found.std(ddof=1) / math.sqrt(len(found))
    low, high = max(found.mean() - half, 0), min(found.mean() + half, 1)
    return f"{found.mean():.2f} ({low:.2f} to {high:.2f})"


def show(rows: list[dict[str, Any]]) -> str:
    """The table: a line for each method and number of inputs."""
    lines = []
    for inputs in sorted({row["inputs"] for row in rows}):
        for name in METHODS:
            found = [row for row in rows if row["method"] == name and row["inputs"] == inputs]
            if found:
                shares = (interval([row[key] for row in found]) for key in ("power", "false"))
                seconds = float(np.mean([row["seconds"] for row in found]))
                lines.append([str(inputs), name, str(len(found)), *shares, f"{seconds:.1f}"])
    return table(["columns", "method", "data sets", "power", "false discovery rate", "CPU seconds"], lines)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(METHODS), metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--inputs", type=int, nargs="+", default=[200], help="how many columns, at least 5")
    parser.add_argument("--seeds", type=int, default=10, help="data sets of each")
    parser.add_argument("--out", type=Path, default=Path("runs/friedman"))
    options = parser.parse_args()
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no method; there are {', '.join(METHODS)}")
    rows = kept_rows(options.out)
    done = {(row["method"], row["inputs"], row["seed"]) for row in rows}
    print(machine(), flush=True)
    for seed in range(options.seeds):
        for inputs in options.inputs:
            for name in options.methods:
                if (name, inputs, seed) in done:
                    continue
                rows.append(measure(name, inputs, seed))
                keep_row(options.out, rows[-1])
                print(rows[-1], flush=True)
    print(show(rows))


def _arrays(problem: SelectionProblem) -> tuple[NDArray, NDArray]:
    return problem.x.numpy(), problem.y.numpy()


if __name__ == "__main__":
    main()
