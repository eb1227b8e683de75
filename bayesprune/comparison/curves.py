"""Accuracy over what is left, with intervals: one panel a task, measure and compute."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from bayesprune.comparison.goals import FREE, MACS, OURS
from bayesprune.comparison.runs import labels
from bayesprune.comparison.statistics import Line
from bayesprune.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT = {MACS: "multiply-adds left", "weights": "weights left"}
FAR, LEAST_SPAN = 4.0, 3.0
"""How far below the best line a panel begins: so many times as far as the median is, and so many points at least."""


def draw_curves(lines: Sequence[Line]) -> Figure:
    """A figure of all lines that have goals and can be compared; what ends where it ends is a level line.

    Args:
        lines: From `statistics.lines`.

    Raises:
        ConfigError: if none came to something.
    """
    from bayesprune.reports.picture import grid, new_figure  # slow to import: rich

    fine = [line for line in lines if line.comparable]
    panels = list(dict.fromkeys((line.task, line.measure, line.compute) for line in fine if line.measure != FREE))
    if not panels:
        raise ConfigError("compare: no run came to anything that could be drawn; look at the errors in the rows")
    methods = list(dict.fromkeys(line.method for line in fine))
    columns, rows = grid(len(panels))
    across = 3 * columns
    figure = new_figure(4.6 * columns, 3.4 * rows + 0.25 * math.ceil(len(methods) / across), "")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for place, panel in zip(axes, panels, strict=False):
        _draw_panel(place, panel, [line for line in fine if (line.task, line.compute) == (panel[0], panel[2])], methods)
    for unused in list(axes)[len(panels) :]:
        unused.axis("off")
    named = {name: mark for place in figure.axes for mark, name in zip(*place.get_legend_handles_labels(), strict=True)}
    shown = [name for name in labels(methods).values() if name in named]
    marks = [named[name] for name in shown]
    figure.legend(marks, shown, loc="outside lower left", ncols=across, fontsize=9, frameon=False)
    return figure


def _draw_panel(axes: Axes, panel: tuple[str, str, float], lines: Sequence[Line], methods: Sequence[str]) -> None:
    """One panel.

    Args:
        axes: Where.
        panel: Task, measure and compute.
        lines: Those of the task and compute.
        methods: All methods, which have the same colours everywhere.
    """
    from matplotlib import colormaps

    task, measure, compute = panel
    names, colours = labels(methods), colormaps["tab20"]
    for number, method in enumerate(methods):
        its = [line for line in lines if line.method == method]
        here = sorted((line for line in its if line.measure == measure), key=lambda line: line.share)
        width = 2.4 if method == OURS else 1.2
        style: dict[str, Any] = {"color": colours(number % 20), "label": names[method], "linewidth": width}
        if here:
            half = [100 * min(line.accuracy.half, 1.0) if line.accuracy.count > 1 else 0.0 for line in here]
            means = [100 * line.accuracy.mean for line in here]
            axes.errorbar([line.mean(f"{measure}_left") for line in here], means, half, marker="o", capsize=2, **style)
        elif its and its[0].measure == FREE:
            axes.axhline(100 * its[0].accuracy.mean, linestyle=":", **style)
    axes.set_xscale("log")
    shares = sorted({line.share for line in lines if line.measure == measure})
    axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel(LEFT[measure])
    axes.set_ylabel("accuracy %")
    axes.set_title(f"{task}, compute {compute:g}×", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2.0), min(high, 102.0))  # intervals of few seeds go beyond what accuracies can be
    _leave_out_the_far([100 * line.accuracy.mean for line in lines if line.measure in (measure, FREE)], axes)


def _leave_out_the_far(means: Sequence[float], axes: Axes) -> None:
    """Let the panel begin where half of the methods can still be told apart, and say so if some lie below.

    Args:
        means: Of all lines, in per cent.
        axes: The panel.
    """
    span = max(FAR * (max(means) - median(means)), LEAST_SPAN)
    lowest = max(means) - span
    if min(means) < lowest:
        axes.set_ylim(lowest, min(axes.get_ylim()[1], max(means) + span / 5))
        axes.set_ylabel(f"accuracy %, from {lowest:.0f} on")


def as_svg(figure: Figure) -> str:
    """A figure as an ``svg`` element, the same for the same figure."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bayesprune", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
