"""Runs as a page: what was removed and why, the network layer by layer, how good it is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.reports import courses, judgements
from bayesprune.reports.chart import CONFIG, Chart
from bayesprune.reports.layers import INPUTS, Layer, frames, layers_of, plain
from bayesprune.reports.page import as_json, compiled, vega, write_page
from bayesprune.training.history import History

MOST_LAYERS, MOST_FILTERS, MANY = 24, 64, 10_000
"""Of how many layers the evidence is drawn at most, how many filters are, and from how many structures on numbers have
three digits instead of five."""


@dataclass(frozen=True, kw_only=True, repr=False)
class RunReport:
    """What a page tells of a run; what is not known is left out.

    Attributes:
        name: What it is called.
        history: Its record, of one epoch at least.
        epochs: Its planned length; by default it is finished.
        settings: How it was made, by name.
        result: What it came to, as in ``result.json``.
        folder: Where its files are, for the words on how to use them.
        saved: By gate name, parameters and multiply-adds that go with each structure alone, shape ``(gates, 2)``.
        inputs: Name of the gate on the inputs, and the shape of one example.
        names: What the inputs are called.
        num_data: N, the number of training examples.
        latency: Seconds an example takes, at the start and of the compacted network.
        filters: Those of a first convolution that stayed, shape ``(n, C, H, W)``.

    Examples:
        >>> from bayesprune.training import EpochRow, History
        >>> row = EpochRow(1, "train", 0.5, 0.4, 0.6, 0.9, 7, 1.0, 100, 200, 1.5)
        >>> RunReport(name="mine", history=History(rows=[row]))
        RunReport('mine', epoch 1 of 1)
    """

    name: str
    history: History
    epochs: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    folder: str | None = None
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: tuple[str, tuple[int, ...]] | None = None
    names: Sequence[str] | None = None
    num_data: int | None = None
    latency: tuple[float, float] | None = None
    filters: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.history.rows:
            raise ConfigError(
                f"report: the run {self.name!r} has no finished epoch, so there is nothing to tell of it yet"
            )

    def __repr__(self) -> str:
        """The name, and how far it is."""
        done = len(self.history.rows)
        return f"RunReport({self.name!r}, epoch {done} of {self.epochs or done})"

    @property
    def unfinished(self) -> bool:
        """Whether epochs of it are still to come."""
        return self.epochs is not None and len(self.history.rows) < self.epochs

    @cached_property
    def layers(self) -> list[Layer]:
        """Its gates, layer by layer."""
        return layers_of(self.history, self.saved, self.inputs, self.names)

    @property
    def start(self) -> dict[str, float]:
        """Gates, parameters and multiply-adds at the start; without a result those after the first epoch."""
        first = self.history.rows[0]
        found = self.result or {"dense_params": first.params, "dense_macs": first.macs}
        gates = sum(len(layer.names) for layer in self.layers) or first.gates_left
        return {"gates": gates, "parameters": found["dense_params"], "multiply-adds": found["dense_macs"]}

    @property
    def figures(self) -> list[tuple[str, float | None, float, float]]:
        """Gates, parameters and multiply-adds: name, at the start, left, and the share of it."""
        last, found = self.history.rows[-1], self.result or {}
        left = {
            "gates": found.get("gates_left", last.gates_left),
            "parameters": found.get("params", last.params),
            "multiply-adds": found.get("macs", last.macs),
        }
        return [(name, start, left[name], left[name] / start if start else 1.0) for name, start in self.start.items()]

    @property
    def budget(self) -> tuple[str, float] | None:
        """The measure and fraction of its budget, if it has one."""
        measure, _, fraction = str(self.settings.get("budget") or "").partition("=")
        words = {"macs": "multiply-adds", "params": "parameters"}
        return (words.get(measure, measure), float(fraction)) if fraction else None

    @property
    def budget_met(self) -> bool | None:
        """Whether the finished run keeps to its budget, if it has one, by what it came to or else by its record."""
        if self.budget is None or self.unfinished:
            return None
        return bool(self.result["budget_met"] if self.result else self.history.rows[-1].expected <= self.budget[1])

    @property
    def forced(self) -> int:
        """How many structures were removed for the sake of a budget, whatever the data say."""
        return sum(removal.forced for removal in self.history.removals)

    @property
    def accuracy(self) -> float | None:
        """On the test examples, or the validation examples of the last epoch."""
        found = self.result["accuracy"] if self.result else self.history.rows[-1].val_accuracy
        return plain(found)

    def curves(self) -> list[Chart]:
        """How it went over the epochs."""
        rows = self.history.rows
        split = "test" if self.folder else "validation"  # a command scores the test split while it trains
        found = courses.learning(rows, split), courses.shrinking(self.history, self.start, self.budget)
        return [chart for chart in (*found, courses.pricing(rows, self.budget is not None)) if chart is not None]

    def evidence(self) -> list[Chart]:
        """What structures are worth beyond their price, layer by layer."""
        drawn = (judgements.evidence(layer, number) for number, layer in enumerate(self.layers[:MOST_LAYERS]))
        return [chart for chart in drawn if chart is not None]

    def inclusion(self) -> Chart | None:
        """Which inputs matter, where these are no image."""
        for layer in self.layers:
            if layer.kind == INPUTS and layer.shape is None:
                return judgements.inclusion(layer, self.num_data)
        return None

    def reliability(self) -> Chart | None:
        """Confidence against accuracy, where it was measured."""
        bins = (self.result or {}).get("reliability")
        return judgements.reliability(bins) if bins else None

    def data(self) -> dict[str, Any]:
        """What the script of the page is given: frames, layers, filters."""
        shown = frames(self.history)
        digits = 5 if sum(len(layer.names) for layer in self.layers) <= MANY else 3
        return {
            "name": self.name,
            "epochs": shown,
            "num_data": self.num_data,
            "layers": [layer.data(shown, digits) for layer in self.layers],
            "filters": None if self.filters is None else _pixels(self.filters),
        }


@checked_arguments
def write_report(runs: Sequence[RunReport], path: str | Path) -> None:
    """Write one page on one or several runs, which needs no other file and no network.

    Args:
        runs: What is told of each.
        path: The file; one that is there is replaced.

    Raises:
        ConfigError: without a run, and for two of one name.
        FileError: if it cannot be written there.
    """
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise ConfigError(f"report: expected one or several runs, each with a name of its own, got {names or 'none'}")
    compared = None
    if (
        len(runs) > 1
        and all(run.start["multiply-adds"] for run in runs)
        and all(run.accuracy is not None for run in runs)
    ):
        start = {run.name: run.start["multiply-adds"] for run in runs}
        compared = courses.trajectories({run.name: run.history for run in runs}, start)
    told = [_Told(run, number) for number, run in enumerate(runs)]
    drawn = {compared.key: compared} if compared else {}
    for each in told:
        drawn |= each.drawn
    specs = {key: compiled(chart.spec, CONFIG) for key, chart in drawn.items()}
    data = {"runs": [run.data() for run in runs], "charts": specs}
    settings = list(dict.fromkeys(name for run in runs for name in run.settings))
    differ = [name for name in settings if len({str(run.settings.get(name)) for run in runs}) > 1]
    write_page(
        Path(path), "report.html.j2", told=told, compared=compared, differ=differ, data=as_json(data), vega=vega()
    )


class _Told:
    """A run with its charts, each made once, as the template asks for them.

    Args:
        run: The run.
        number: Its place on the page.
    """

    def __init__(self, run: RunReport, number: int):
        self.run, self.number = run, number
        self.curves, self.evidence = run.curves(), run.evidence()
        self.inclusion, self.reliability = run.inclusion(), run.reliability()
        self.rows = [layer.summary() for layer in run.layers]

    @property
    def drawn(self) -> dict[str, Chart]:
        """All charts, by their addresses on the page."""
        theta = courses.theta(len(self.run.history.rows)) if self.rows else None
        found = [*self.curves, *self.evidence, self.inclusion, self.reliability, theta]
        return {f"{self.number}-{chart.key}": chart for chart in found if chart is not None}


def _pixels(filters: Tensor) -> dict[str, Any]:
    """Filters as grey values or colours from 0 to 255, each in its own range."""
    shown = filters[:MOST_FILTERS].detach().double().cpu()
    low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
    values = (255 * (shown - low) / (high - low).clamp(min=1e-12)).round().int()
    return {"shape": list(values.shape[1:]), "of": len(filters), "values": values.flatten(1).tolist()}
