"""Tables of what the comparison with SS-IG found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from report import table

from bayesprune import metrics

SIZES = ["seed", "accuracy %", "at the means %", "dense %", "multiply-adds", "parameters", "gates on", "converged"]
SIZES += ["seconds", "dense seconds"]
FIGURES = ["seed", "network", "accuracy %", "NLL", "Brier", "ECE %"]


@dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
        size: Numbers of the first table, in the order of its header, but for the gates.
        gates: How many gates are on, layer by layer.
        figures: By network, calibration.
        found: By input from outside, and score, the area under the ROC curve.
    """

    size: list[float]
    gates: str
    figures: dict[str, metrics.Calibration]
    found: dict[tuple[str, str], float]


def size_table(outcomes: dict[str, Outcome]) -> str:
    """Accuracy and cost, a row a seed, and their means."""
    mean = [statistics.mean(column) for column in zip(*(o.size for o in outcomes.values()), strict=True)]
    rows = []
    for name, size, gates in [*((n, o.size, o.gates) for n, o in outcomes.items()), ("**mean**", mean, "")]:
        *shares, converged, seconds, dense_seconds = size
        cells = [f"{value:.2f}" for value in shares[:3]] + [f"{value:.2f} %" for value in shares[3:]]
        rows.append([name, *cells, gates, f"{converged:.2f} %", f"{seconds:.0f}", f"{dense_seconds:.0f}"])
    return table(SIZES, rows)


def calibration_table(outcomes: dict[str, Outcome]) -> str:
    """Figures of the predictions, a row for each seed and network, and their means."""
    rows: list[list[str]] = []
    columns: dict[str, list[tuple[float, ...]]] = {}
    for seed, outcome in outcomes.items():
        for network, c in outcome.figures.items():
            columns.setdefault(network, []).append((100 * c.accuracy, c.nll, c.brier, 100 * c.ece))
            rows.append([seed, network, *_figures(columns[network][-1])])
    for network, values in columns.items():
        means = [statistics.mean(column) for column in zip(*values, strict=True)]
        rows.append(["**mean**", network, *_figures(means)])
    return table(FIGURES, rows)


def _figures(values: tuple[float, ...] | list[float]) -> list[str]:
    accuracy, nll, brier, ece = values
    return [f"{accuracy:.2f}", f"{nll:.4f}", f"{brier:.4f}", f"{ece:.2f}"]


def outside_table(outcomes: dict[str, Outcome]) -> str:
    """Area under the ROC curve of telling inputs from outside by a score, mean over seeds (lowest)."""
    found = [outcome.found for outcome in outcomes.values()]
    scores = list(dict.fromkeys(score for _, score in found[0]))
    rows = []
    for name in dict.fromkeys(name for name, _ in found[0]):
        values = [[each[name, score] for each in found] for score in scores]
        rows.append([name, *(f"{statistics.mean(column):.4f} ({min(column):.4f})" for column in values)])
    return table(["outside", *scores], rows)
