"""Simulation-based calibration of the linear regressor: inclusion, predictions and noise, with a picture of the ranks.

    python examples/benchmarks/calibration.py --fits 200 --out DIR --picture docs/pictures/calibration.svg

The truth is drawn from the prior that the regressor states of standardised numbers, and the targets from the truth.
Then what a right posterior says of the truth is right on average (Talts et al. 2018): of inputs with an inclusion
probability of 0.7 seven of ten are in, and truths have uniform ranks among draws from the posterior. The regressor's
own training is called on the numbers as they are, since it would otherwise divide targets by their standard deviation,
under which no prior of their law remains; its prior of the noise is narrowed for the same reason. A fit that is done
leaves a line in DIR/rows.jsonl and is not made again.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from report import keep_row, kept_rows, machine, table
from scipy.stats import chi2, kstest, norm
from torch import Tensor

from bayesprune.infer import LearnedGaussian
from bayesprune.sklearn.network import INPUTS, gated_mlp
from bayesprune.sklearn.training import Training, own_random_state

ROWS, COLUMNS = 50, 6
DRAWS = 200
BINS = 10
TRAINING = Training("normal", 1.0, 0.5, epochs=200, batch_size=ROWS, learning_rate=0.05)
COUNT = 5.0
"""ν: the guess of the noise counts for five residuals instead of one, so that no truth has noise far beyond 1. The
regressor standardises, and what learns the noise begins at 1."""
RANKS = {"mean": "mean of a new target", "target": "new target", "noise": "scale of the noise"}
"""What has a rank, by its name in a row."""


@dataclass(frozen=True)
class Truth:
    """A draw from the prior.

    Attributes:
        included: Which inputs are in, bool, shape ``(d,)``.
        weights: Their coefficients, shape ``(d,)``, 0 for those that are out.
        intercept: The intercept.
        noise: Scale of the noise: σ⁻² ~ Gamma(ν/2, ν/2) with ν = `COUNT`.
        x: Inputs, shape ``(n + 1, d)``; the last row is new.
        y: Targets, shape ``(n + 1, 1)``.
    """

    included: Tensor
    weights: Tensor
    intercept: float
    noise: float
    x: Tensor
    y: Tensor

    @property
    def mean(self) -> float:
        """Mean of the new target."""
        return float(self.x[-1] @ self.weights) + self.intercept


def draw(seed: int) -> Truth:
    """A truth and its targets."""
    generator = np.random.default_rng(seed)
    included = torch.from_numpy(generator.random(COLUMNS) < 0.5)
    weights = included * torch.from_numpy(generator.standard_normal(COLUMNS))
    intercept, noise = float(generator.standard_normal()), float(generator.chisquare(COUNT) / COUNT) ** -0.5
    x = torch.from_numpy(generator.standard_normal((ROWS + 1, COLUMNS)))
    y = (x @ weights + intercept)[:, None] + noise * torch.from_numpy(generator.standard_normal((ROWS + 1, 1)))
    return Truth(included, weights, intercept, noise, x, y)


def measure(seed: int) -> dict[str, Any]:
    """Inclusion probabilities, what is in, and ranks in [0, 1] of the truth, of one fit.

    The noise is a point estimate; its rank is that in the Normal law of log σ around it, whose variance is that of
    n + ν residuals, 1/(2(n + ν)).
    """
    truth = draw(seed)
    x, y = truth.x.float(), truth.y.float()
    with own_random_state(seed):
        found = TRAINING.train(
            lambda: gated_mlp(ROWS, (), 1, np.zeros(COLUMNS, bool)),
            LearnedGaussian(prior_count=COUNT),
            x[:-1],
            y[:-1],
            torch.ones(ROWS),
        )
        net = found.net.eval()
        means = net.predict(x[-1:], DRAWS).samples.flatten().double().numpy()
    noise = float(net.likelihood.learned_noise)
    return {
        "inclusion": net.by_gate(net.theta.detach())[INPUTS].tolist(),
        "included": truth.included.tolist(),
        "mean": float((means < truth.mean).mean()),
        "target": float(norm.cdf((float(truth.y[-1]) - means) / noise).mean()),
        "noise": float(norm.cdf(math.log(truth.noise / noise) * math.sqrt(2 * (ROWS + COUNT)))),
    }


def reliability(rows: list[dict[str, Any]], edges: NDArray) -> list[tuple[float, float, float, int]]:
    """By bin of inclusion: mean probability, share that is in, its standard error if probabilities are right, count.

    Args:
        rows: What `measure` gives.
        edges: Edges of the bins, from 0 to 1.
    """
    probability = np.concatenate([row["inclusion"] for row in rows])
    included = np.concatenate([row["included"] for row in rows]).astype(float)
    places, found = np.clip(np.digitize(probability, edges) - 1, 0, len(edges) - 2), []
    for place in range(len(edges) - 1):
        of_bin = probability[places == place]
        if len(of_bin):
            error = float(np.sqrt((of_bin * (1 - of_bin)).sum())) / len(of_bin)
            found.append((float(of_bin.mean()), float(included[places == place].mean()), error, len(of_bin)))
    return found


def p_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How likely deviations as large are where all is right: of inclusion by χ², of ranks by Kolmogorov's law."""
    bins = [part for part in reliability(rows, np.linspace(0, 1, 6)) if part[2] > 0]
    statistic = sum(((share - mean) / error) ** 2 for mean, share, error, _ in bins)
    found = {"inclusion": float(chi2.sf(statistic, len(bins)))}
    return found | {name: float(kstest([row[name] for row in rows], "uniform").pvalue) for name in RANKS}


def show(rows: list[dict[str, Any]]) -> str:
    """The calibration of inclusion by bin, then of ranks the shares within the middle half and in the tails."""
    edges, values = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]), p_values(rows)
    curve = []
    for mean, share, error, count in reliability(rows, edges):
        place = min(int(np.digitize(mean, edges)), len(edges) - 1)
        curve.append(
            [f"{edges[place - 1]:g} to {edges[place]:g}", f"{mean:.3f}", f"{share:.3f} ± {error:.3f}", f"{count}"]
        )
    lines = []
    for name, words in RANKS.items():
        ranks = np.array([row[name] for row in rows])
        middle, tails = ((ranks > 0.25) & (ranks < 0.75)).mean(), ((ranks < 0.025) | (ranks > 0.975)).mean()
        lines.append([words, f"{ranks.mean():.3f}", f"{middle:.1%}", f"{tails:.1%}", f"{values[name]:.2g}"])
    return "\n\n".join(
        (
            table(["inclusion probability", "mean", "share that is in", "inputs"], curve),
            f"{len(rows)} fits; χ² of inclusion: p = {values['inclusion']:.2g}",
            table(["rank of", "mean", "in the middle half", "in the outer 5 %", "Kolmogorov-Smirnov, p"], lines),
        )
    )


def draw_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """The curve of inclusion and a histogram of each rank, with the bands that 95 % of right posteriors stay within.

    Args:
        rows: What `measure` gives.
        path: An svg or png.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.subplots(1, 4)
    parts = reliability(rows, np.linspace(0, 1, 6))
    axes[0].plot([0, 1], [0, 1], color="#718096", linewidth=0.8)
    axes[0].errorbar(
        [mean for mean, *_ in parts], [share for _, share, *_ in parts], [1.96 * error for *_, error, _ in parts],
        fmt="o", color="#2b6cb0", markersize=4,
    )  # fmt: skip
    axes[0].set(title="inclusion", xlabel="inclusion probability", ylabel="share that is in")
    low, high = (len(rows) / BINS + side * 1.96 * math.sqrt(len(rows) / BINS * (1 - 1 / BINS)) for side in (-1, 1))
    for place, (name, words) in enumerate(RANKS.items(), 1):
        axes[place].axhspan(low, high, color="#e2e8f0")
        axes[place].hist([row[name] for row in rows], bins=BINS, range=(0, 1), color="#2b6cb0", rwidth=0.9)
        axes[place].set(title=words, xlabel="rank of the truth")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure what is not measured yet, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--picture", type=Path, help="where to draw the ranks, an svg or png")
    options = parser.parse_args()
    rows = kept_rows(options.out)
    print(machine(), flush=True)
    for seed in range(len(rows), options.fits):
        rows.append({"seed": seed, **measure(seed)})
        keep_row(options.out, rows[-1])
    print(show(rows[: options.fits]))
    if options.picture is not None:
        draw_picture(rows[: options.fits], options.picture)


if __name__ == "__main__":
    main()
