"""Tables for the terminal, from plain records."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from rich import box
from rich.table import Table

from bayesprune.arguments import checked_arguments
from bayesprune.reports.summary import GateSummary, total


@checked_arguments
def gate_table(summaries: list[GateSummary], title: str) -> Table:
    """The gates of a run, one row for each gated module and one for all together.

    Args:
        summaries: From `summarize`.
        title: What stands above the table.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("module", overflow="fold")  # of a deep network they are long, and each is needed whole
    for heading in ("gates at start", "left", "expected on", "converged", "lowest θ", "highest θ"):
        table.add_column(heading, justify="right")
    for summary in summaries:
        table.add_row(*_gate_cells(summary))
    table.add_section()
    table.add_row(*_gate_cells(total(summaries)), style="bold")
    return table


@checked_arguments
def result_table(result: Mapping[str, Any]) -> Table:
    """What a finished run arrived at: the compacted network next to the one it started from.

    Args:
        result: The contents of ``result.json``.
    """
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in ("start", "compacted", "left"):
        table.add_column(heading, justify="right")
    for label, before, after in (
        ("gates", result["gates"], result["gates_left"]),
        ("parameters", result["dense_params"], result["params"]),
        ("multiply-adds", result["dense_macs"], result["macs"]),
    ):
        table.add_row(label, f"{before:,}", f"{after:,}", _percent(after / before))
    for label, figure in _prediction_rows(result):
        table.add_row(f"test {label}", "", figure, "")
    table.add_row("gates converged", "", _percent(result["gates_converged"]), "")
    table.add_row("seconds", "", f"{result['seconds']:.1f}", "")
    return table


@checked_arguments
def score_table(score: Mapping[str, Any]) -> Table:
    """What `bayesprune evaluate` measured.

    Args:
        score: ``accuracy`` (0 to 1), ``nll`` (nats per example), ``brier``, ``ece``, ``params``, ``macs``,
            ``examples`` and ``data``; maybe ``against`` and ``auroc``; of a posterior also ``posterior_samples``, the
            same figures with ``posterior_`` before them, and ``posterior_auroc_information``.
    """
    table = Table(title=f"test split of {score['data']}", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("examples", f"{score['examples']:,}")
    for label, figure in _prediction_rows(score):
        table.add_row(label, figure)
    for label, key in (
        ("AUROC against {}", "auroc"),
        ("posterior AUROC against {}", "posterior_auroc"),
        ("the same, mutual information", "posterior_auroc_information"),
    ):
        if key in score:
            table.add_row(label.format(score["against"]), f"{score[key]:.4f}")
    table.add_row("parameters", f"{score['params']:,}")
    table.add_row("multiply-adds", f"{score['macs']:,}")
    return table


def _prediction_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for what is measured of class probabilities: of a network, and of its posterior if it is there."""
    rows = _probability_rows(figures, "", "")
    if "posterior_samples" in figures:
        rows.append(("posterior networks drawn", f"{figures['posterior_samples']:,}"))
        rows += _probability_rows(figures, "posterior_", "posterior ")
    return rows


def _probability_rows(figures: Mapping[str, Any], prefix: str, label: str) -> list[tuple[str, str]]:
    return [
        (f"{label}accuracy", f"{100 * figures[prefix + 'accuracy']:.2f} %"),
        (f"{label}nll (nats)", f"{figures[prefix + 'nll']:.4f}"),
        (f"{label}Brier score", f"{figures[prefix + 'brier']:.4f}"),
        (f"{label}calibration error", f"{100 * figures[prefix + 'ece']:.2f} %"),
    ]


def _gate_cells(summary: GateSummary) -> tuple[str, ...]:
    return (
        summary.name,
        f"{summary.start:,}",
        f"{summary.left:,}",
        f"{summary.expected:,.1f}",
        _percent(summary.converged),
        _probability(summary.low),
        _probability(summary.high),
    )


def _probability(value: float) -> str:
    return "–" if isnan(value) else f"{value:.3f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
