"""How far the regressor for tables can be believed: noise, error, coverage and units left, over data sets with a law.

    python examples/benchmarks/believe.py --out DIR
    python examples/benchmarks/believe.py wide "wide, scale 1" --seeds 8 --out DIR

Every data set is drawn from a law that is known, so that new targets, their noise and the best linear prediction are
known too. A fit that is done leaves a line in DIR/rows.jsonl and is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from report import keep_row, kept_rows, machine, table
from sklearn.linear_model import BayesianRidge

from bayesprune.sklearn import BayesPruneRegressor

LEVELS = 0.5, 0.8, 0.95
NEW = 2000
"""How many new targets are predicted."""
Rows = tuple[NDArray, NDArray, NDArray]
"""Inputs, the mean of the targets, their noise."""


@dataclass(frozen=True)
class Case:
    """A law of tables and how a regressor is trained on them.

    Attributes:
        draw: Makes so many rows of a table; its second generator is the same for old and new rows.
        rows: How many are trained on.
        active: How many columns matter, the first ones.
        settings: What differs from the regressor's defaults.
    """

    draw: Callable[[int, Generator, Generator], Rows]
    rows: int
    active: int
    settings: dict[str, Any] = field(default_factory=dict)


def linear(rows: int, generator: Generator, law: Generator) -> Rows:
    """Three columns, noise 1."""
    X = generator.standard_normal((rows, 3))
    return X, X @ [1.0, -1.0, 0.5], generator.standard_normal(rows)


def wide(rows: int, generator: Generator, law: Generator) -> Rows:
    """128 columns, of which 64 have effects with a standard deviation of 0.15, noise 1."""
    X, effects = generator.standard_normal((rows, 128)), 0.15 * law.standard_normal(64)
    return X, X[:, :64] @ effects, generator.standard_normal(rows)


def sine(rows: int, generator: Generator, law: Generator) -> Rows:
    """A sine of the only column, noise 0.1."""
    X = generator.uniform(-2, 2, (rows, 1))
    return X, np.sin(2 * X[:, 0]), 0.1 * generator.standard_normal(rows)


def varying(rows: int, generator: Generator, law: Generator) -> Rows:
    """A sine, whose noise rises from 0.05 to 0.45."""
    X = generator.uniform(-2, 2, (rows, 1))
    return X, np.sin(2 * X[:, 0]), (0.25 + 0.1 * X[:, 0]) * generator.standard_normal(rows)


def heavy(rows: int, generator: Generator, law: Generator) -> Rows:
    """The columns of `linear`, Student's noise of five degrees of freedom."""
    X = generator.standard_normal((rows, 3))
    return X, X @ [1.0, -1.0, 0.5], generator.standard_t(5, rows)


def teacher(rows: int, generator: Generator, law: Generator) -> Rows:
    """A network of ten columns and five units, noise 0.1."""
    X, inner, outer = generator.standard_normal((rows, 10)), law.standard_normal((10, 5)), law.choice([-1.0, 1.0], 5)
    return X, np.maximum(X @ inner / 3, 0) @ outer, 0.1 * generator.standard_normal(rows)


FULL = {"temperature": 1.0}
QUICK = {"temperature": 1.0, "learning_rate": 0.02, "batch_size": 125, "epochs": 250}
LINEAR = QUICK | {"hidden_layer_sizes": ()}
CASES = {
    **{f"linear, {rows} rows": Case(linear, rows, 3) for rows in (20, 50, 200, 2000)},
    "linear, 50 rows, temperature 1": Case(linear, 50, 3, FULL),
    "wide": Case(wide, 250, 64, LINEAR),
    "sine": Case(sine, 150, 1),
    "varying noise": Case(varying, 300, 1, {"likelihood": "heteroscedastic"}),
    "heavy tails, learned_gaussian": Case(heavy, 500, 3, LINEAR),
    "heavy tails, student_t": Case(heavy, 500, 3, LINEAR | {"likelihood": "student_t"}),
    "teacher of 5 units, from 50": Case(teacher, 500, 10, QUICK | {"hidden_layer_sizes": (50,)}),
    "teacher of 5 units, from 200": Case(teacher, 500, 10, QUICK | {"hidden_layer_sizes": (200,)}),
}


def measure(case: Case, seed: int) -> dict[str, float]:
    """What one fit gives: ratios to the truth, coverage by level, inclusion, units and seconds."""
    generator = np.random.default_rng(seed)
    X, mean, noise = case.draw(case.rows, generator, np.random.default_rng([seed, 1]))
    new, new_mean, new_noise = case.draw(NEW, generator, np.random.default_rng([seed, 1]))
    began = time.process_time()
    model = BayesPruneRegressor(random_state=0, **case.settings).fit(X, mean + noise)
    seconds = time.process_time() - began
    ridge = BayesianRidge().fit(X, mean + noise)
    found, deviation = model.predict(new, return_std=True)
    inclusion, y = model.inclusion_probabilities_, new_mean + new_noise
    row = {
        "noise": float(np.median(deviation) / new_noise.std()),
        "ridge": _rms(found - y) / _rms(ridge.predict(new) - y),
        "error": _rms(found - new_mean) / float(new_noise.std()),
        "active": float(inclusion[: case.active].mean()),
        "idle": float(inclusion[case.active :].mean()) if len(inclusion) > case.active else float("nan"),
        "units": float(model.network_.num_gates - len(inclusion)),
        "seconds": seconds,
    }
    if case.settings.get("likelihood", "learned_gaussian") == "learned_gaussian":
        row["noise"] = float(model.network_.likelihood.noise_scale.detach()) / float(noise.std())
    for level in LEVELS:
        low, high = model.predict_interval(new, level).T
        row[f"{level}"] = float(((low < y) & (y < high)).mean())
    return row


def _rms(differences: NDArray) -> float:
    return float(np.sqrt(np.mean(np.square(differences))))


def show(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds of each case, with standard errors where there are several."""
    columns = {
        "noise": "noise / true",
        "ridge": "RMSE / Bayesian ridge",
        "error": "error of the mean / noise",
        **{f"{level}": f"{100 * level:g} % intervals hold" for level in LEVELS},
        "active": "inclusion, active",
        "idle": "inclusion, idle",
        "units": "units left",
        "seconds": "CPU seconds",
    }
    lines = []
    for name in CASES:
        found = np.array([[row[key] for key in columns] for row in rows if row["case"] == name])
        if len(found):
            error = found.std(0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.zeros(len(columns))
            cells = [
                f"{value:.{digits}f}" + (f" ± {e:.{digits}f}" if key == "noise" else "")
                for key, value, e, digits in zip(columns, found.mean(0), error, _digits(columns), strict=True)
            ]
            lines.append([name, str(len(found)), *cells])
    return table(["case", "seeds", *columns.values()], lines)


def _digits(columns: dict[str, str]) -> list[int]:
    return [1 if key in ("units", "seconds") else 3 if key[0] == "0" else 2 for key in columns]


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/believe"))
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no case; there are {', '.join(CASES)}")
    rows = kept_rows(options.out)
    print(machine(), flush=True)
    for name in options.cases:
        for seed in range(options.seeds):
            if any(row["case"] == name and row["seed"] == seed for row in rows):
                continue
            rows.append({"case": name, "seed": seed, **measure(CASES[name], seed)})
            keep_row(options.out, rows[-1])
            print(rows[-1], flush=True)
    print(show(rows))


if __name__ == "__main__":
    main()
