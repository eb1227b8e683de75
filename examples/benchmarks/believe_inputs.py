"""Inclusion probabilities of a regressor with a hidden layer against an enumeration of all sets of its inputs.

    python examples/benchmarks/believe_inputs.py --out DIR
    python examples/benchmarks/believe_inputs.py sine "sine, correlated" --out DIR

The reference is the posterior of the model that the regressor states, with all its units and no mean field: the
evidence of every set of inputs, in two passes. The first takes the function of a network whose m units are on, where
m ~ Binomial(50, 1/2), for a Gaussian process of the same covariance, m K + 1, K being the arc-cosine kernel of degree 1
(Cho & Saul 2009); it is summed over m and over the scale of the noise. That is exact as m grows, and charges a weak
input some nats too much at 50 units. So the sets that are within `SCREEN` nats of the best get their evidence from
sequential Monte Carlo over the first layer, with the second one integrated out: nothing is approximate there but by
chance. What is done leaves a line in DIR/rows.jsonl and is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from report import keep_row, kept_rows, machine, table
from scipy.special import gammaln, logsumexp
from scipy.stats import binom
from tempering import tempered_evidence

from bayesprune.sklearn import BayesPruneRegressor

INPUTS, ROWS, UNITS, NOISE = 10, 100, 50, 0.3
SCREEN, MOST = 16.0, 24
"""How far from the best, in nats, a set may be by the Gaussian process, and how many of them get a second look."""
NOISES = np.geomspace(0.03, 1.5, 48)
"""Scales of the noise that are summed over, of standardised targets."""
STARTS = {"one start": 1, "two starts": 2}
"""What `restarts` is, by the name of what is measured."""
PARTS = "reference", *STARTS
Kernel = Callable[[NDArray], NDArray]


# the reference --------------------------------------------------------------------------------------------------------


def relu_kernel(x: NDArray) -> NDArray:
    """E[relu(w x + b) relu(w x' + b)] of standard Normal weights and biases, shape ``(..., n, n)``.

    Args:
        x: Inputs, shape ``(..., n, d)``.
    """
    products = 1 + x @ x.swapaxes(-1, -2)
    norms = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    norms = norms[..., :, None] * norms[..., None, :]
    cosine = np.clip(products / norms, -1, 1)
    return norms / (2 * np.pi) * (np.sqrt(1 - cosine**2) + (np.pi - np.arccos(cosine)) * cosine)


def log_evidences(
    x: NDArray, y: NDArray, sets: NDArray, kernel: Kernel, units: NDArray, unit_weights: NDArray, noises: NDArray
) -> NDArray:
    """The log evidence of each set of inputs, log p(y | inputs), nats, shape ``(sets,)``.

    y ~ Normal(0, m K + 1 + σ²), with m units of prior probability ``unit_weights`` and the scale σ of the noise under
    the prior of `bayesprune.infer.LearnedGaussian`.

    Args:
        x: Standardised inputs, shape ``(n, d)``.
        y: Standardised targets, shape ``(n,)``.
        sets: Which inputs each set has, bool, shape ``(sets, d)``.
        kernel: Covariance of what one unit adds.
        units: Numbers of units.
        unit_weights: Their prior probabilities.
        noises: Scales of the noise, in a geometric series; one alone is the known scale.
    """
    log_prior = np.log(unit_weights)[:, None] + _log_noise_weights(noises)
    return np.array([_log_evidence(kernel(x * on), y, units, noises, log_prior) for on in sets])


def _log_evidence(covariance: NDArray, y: NDArray, units: NDArray, noises: NDArray, log_prior: NDArray) -> float:
    """The log evidence where one unit has this covariance."""
    values, vectors = np.linalg.eigh(covariance)
    variances = units[:, None, None] * values.clip(min=0) + noises[None, :, None] ** 2
    target, ones = y @ vectors, vectors.sum(0)
    between, intercept = (target * ones / variances).sum(-1), 1 + (ones**2 / variances).sum(-1)
    squares = (target**2 / variances).sum(-1) - between**2 / intercept
    log_det = np.log(variances).sum(-1) + np.log(intercept)
    return float(logsumexp(log_prior - (squares + log_det + len(y) * np.log(2 * np.pi)) / 2))


def _log_noise_weights(noises: NDArray) -> NDArray:
    """Log prior density times the step of log σ: σ⁻² ~ Gamma(1/2, 1/2), as for targets whose scale is 1."""
    if len(noises) == 1:
        return np.zeros(1)
    log_scale = np.log(noises)
    log_density = -log_scale - np.exp(-2 * log_scale) / 2 + np.log(2) - np.log(2) / 2 - gammaln(0.5)
    return log_density + np.log(np.diff(log_scale).mean())


def inclusion(sets: NDArray, evidences: NDArray, prior: float = 0.5) -> NDArray:
    """Posterior inclusion probability of every input, shape ``(d,)``.

    Args:
        sets: All sets of inputs, bool, shape ``(2^d, d)``.
        evidences: Their log evidences.
        prior: Prior inclusion probability of every input.
    """
    log_joint = evidences + np.where(sets, np.log(prior), np.log1p(-prior)).sum(1)
    return np.exp(log_joint - logsumexp(log_joint)) @ sets


def all_sets(inputs: int) -> NDArray:
    """All sets of inputs, bool, shape ``(2^d, d)``."""
    return np.array(list(product((False, True), repeat=inputs)))


def process_evidences(x: NDArray, y: NDArray, sets: NDArray, units: int = UNITS) -> NDArray:
    """The log evidence of each set by the Gaussian process, nats, shape ``(sets,)``.

    Args:
        x: Standardised inputs, shape ``(n, d)``.
        y: Standardised targets, shape ``(n,)``.
        sets: Which inputs each set has, bool, shape ``(sets, d)``.
        units: Width of the hidden layer.
    """
    numbers = np.arange(units + 1)
    return log_evidences(x, y, sets, relu_kernel, numbers, binom.pmf(numbers, units, 0.5), NOISES)


def reference(x: NDArray, y: NDArray, generator: Generator) -> dict[str, Any]:
    """Inclusion probabilities under the regressor's own prior, and those of the Gaussian process alone.

    Args:
        x: Standardised inputs, shape ``(n, d)``.
        y: Standardised targets, shape ``(n,)``.
        generator: Source of randomness.
    """
    sets = all_sets(x.shape[1])
    evidences = process_evidences(x, y, sets)
    order = np.argsort(-evidences)[:MOST]
    likely = sets[order[evidences[order] > evidences.max() - SCREEN]]
    sampled = np.array([sampled_evidence(x[:, on], y, UNITS, generator) for on in likely])
    return {
        "process": inclusion(sets, evidences).tolist(),
        "reference": inclusion(likely, sampled).tolist(),
        "sets": len(likely),
    }


def sampled_evidence(
    x: NDArray, y: NDArray, units: int, generator: Generator, *, particles: int = 200, moves: int = 10
) -> float:
    """The log evidence of one set without the Gaussian process, nats: by `tempered_evidence`.

    The first layer, gates of units and the noise are sampled, the second layer is integrated out.

    Args:
        x: Standardised inputs, those of one set, shape ``(n, d)``.
        y: Standardised targets, shape ``(n,)``.
        units: Width of the hidden layer.
        generator: Source of randomness.
        particles: As for `tempered_evidence`.
        moves: As there.
    """
    rows, inputs = x.shape
    table = np.concatenate((x, np.ones((rows, 1))), 1)

    def log_likelihood(z: NDArray) -> NDArray:
        """Of weights and biases, gates (on above 0) and 1/σ (without its sign), all standard Normal a priori."""
        layer = z[:, : units * (inputs + 1)].reshape(-1, inputs + 1, units)
        hidden = np.maximum(table @ layer, 0) * (z[:, None, -units - 1 : -1] > 0)
        hidden = np.concatenate((hidden, np.ones((len(z), rows, 1))), 2)
        precision = z[:, -1] ** 2
        factor = np.linalg.cholesky(np.eye(units + 1) + precision[:, None, None] * hidden.swapaxes(1, 2) @ hidden)
        explained = np.linalg.solve(factor, (precision[:, None] * (y @ hidden))[:, :, None])
        log_det = 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1) - rows * np.log(precision)
        squares = precision * (y @ y) - (explained**2).sum((1, 2))
        return -(squares + log_det + rows * np.log(2 * np.pi)) / 2

    return tempered_evidence(log_likelihood, units * (inputs + 2) + 1, particles, moves, generator)


# the problems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Ten inputs: two or three of strong effect, two of weak effect, the rest of none.

    Attributes:
        strong: The part of the strong effects, from inputs of shape ``(n, 10)``.
        correlation: Of neighbouring inputs (AR(1)).
        seed: Of rows and noise.
    """

    strong: Callable[[NDArray], NDArray]
    correlation: float
    seed: int

    def draw(self) -> tuple[NDArray, NDArray]:
        """Inputs, shape ``(100, 10)``, and targets, in their own units; noise has a standard deviation of 0.3."""
        generator = np.random.default_rng(self.seed)
        places = np.arange(INPUTS)
        covariance = self.correlation ** np.abs(places[:, None] - places)
        X = generator.standard_normal((ROWS, INPUTS)) @ np.linalg.cholesky(covariance).T
        weak = 0.12 * X[:, 4] - 0.08 * X[:, 6]
        return X, self.strong(X) + weak + NOISE * generator.standard_normal(ROWS)


LAWS: dict[str, Callable[[NDArray], NDArray]] = {
    "linear": lambda X: 0.8 * X[:, 0] - 0.6 * X[:, 2],
    "sine": lambda X: np.sin(1.5 * X[:, 0]) + 0.5 * X[:, 2],
    "product": lambda X: 0.8 * X[:, 0] * X[:, 2],
    "hinges": lambda X: np.abs(X[:, 0]) + 0.7 * np.maximum(X[:, 2], 0),
    "bump": lambda X: 1.5 * np.exp(-(X[:, 0] ** 2) - X[:, 2] ** 2) + 0.4 * X[:, 8],
}
PROBLEMS = {
    name + (", correlated" if correlation else ""): Problem(law, correlation, seed)
    for correlation in (0.0, 0.5)
    for seed, (name, law) in enumerate(LAWS.items())
}


def fitted(x: NDArray, y: NDArray, starts: int) -> dict[str, Any]:
    """Inclusion probabilities of the regressor, its noise, how many units are on, and the seconds it took."""
    began = time.process_time()
    model = BayesPruneRegressor((UNITS,), temperature=1.0, restarts=starts, random_state=0).fit(x, y)
    return {
        "found": model.inclusion_probabilities_.tolist(),
        "noise": float(model.network_.likelihood.noise_scale.detach()),
        "units": float(sum(part.sum() for name, part in model.network_.gate_probs().items() if name != "inputs")),
        "seconds": time.process_time() - began,
    }


def measure(problem: Problem, part: str) -> dict[str, Any]:
    """What one of `PARTS` gives on the standardised problem."""
    X, y = problem.draw()
    x, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    if part == "reference":
        return reference(x, t, np.random.default_rng([problem.seed, 1]))
    row = fitted(x, t, STARTS[part])
    return row | {"noise": row["noise"] * float(y.std()) / NOISE}


def show(rows: list[dict[str, Any]]) -> str:
    """A line for the fits of a problem by so many starts beside its reference, and the mean of all problems."""
    lines, by = [], {(row["problem"], row["part"]): row for row in rows}
    for part in STARTS:
        deviations = []
        for name in PROBLEMS:
            if (name, part) in by and (name, "reference") in by:
                fit, exact = by[name, part], np.array(by[name, "reference"]["reference"])
                deviations.append(np.abs(np.array(fit["found"]) - exact))
                process = np.abs(np.array(by[name, "reference"]["process"]) - exact).max()
                figures = [deviations[-1].mean(), deviations[-1].max(), process]
                others = [f"{fit['noise']:.2f}", f"{fit['units']:.1f}", f"{fit['seconds']:.0f}"]
                lines.append([name, part, *(f"{value:.3f}" for value in figures), *others])
        if deviations:
            lines.append(["all", part, f"{np.mean(deviations):.3f}", f"{np.max(deviations):.3f}", "", "", "", ""])
    header = ["problem", "fit", "mean deviation", "largest"]
    return table([*header, "largest of the process", "noise / true", "units on", "CPU seconds"], lines)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS), metavar="PROBLEM", help=f"of {list(PROBLEMS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/believe_inputs"))
    options = parser.parse_args()
    unknown = [name for name in options.problems if name not in PROBLEMS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no problem; there are {', '.join(PROBLEMS)}")
    rows = kept_rows(options.out)
    print(machine(), flush=True)
    for name, part in product(options.problems, PARTS):
        if any(row["problem"] == name and row["part"] == part for row in rows):
            continue
        rows.append({"problem": name, "part": part, **measure(PROBLEMS[name], part)})
        keep_row(options.out, rows[-1])
        print(rows[-1], flush=True)
    print(show(rows))


if __name__ == "__main__":
    main()
