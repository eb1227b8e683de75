"""Confidence against accuracy, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from bayesprune.arguments import checked_arguments
from bayesprune.metrics import Bin, Calibration
from bayesprune.reports.picture import LINE, ON, UNDECIDED, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Z = 1.96
"""Standard deviations on either side of a 95 % interval."""


@checked_arguments
def draw_reliability(calibration: Calibration, path: str | Path, *, title: str = "") -> None:
    """Draw the reliability diagram of class probabilities, as PNG, written atomically.

    Each bin with examples in it is a point at their mean confidence, as high as their accuracy, with the 95 % interval
    of that accuracy; the broad line from the diagonal to the point is its share of the calibration error, below the
    diagonal where the network is too sure. Under it, the number of examples in each bin, on a logarithmic scale.

    Args:
        calibration: From `bayesprune.metrics.calibration`.
        path: File to write.
        title: What stands above the picture.
    """
    figure = new_figure(5.6, 6.6, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.6, 1])
    bins = [item for item in calibration.bins if item.count]
    _draw_accuracy(above, bins)
    _draw_counts(below, bins)
    above.set_title(
        f"calibration error {100 * calibration.ece:.2f} %  ·  Brier score {calibration.brier:.4f}  ·  "
        f"nll {calibration.nll:.4f} nats  ·  accuracy {100 * calibration.accuracy:.2f} %",
        fontsize=8,
    )
    for axes in (above, below):
        axes.tick_params(labelsize=8, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def wilson(count: int, fraction: float) -> tuple[float, float]:
    """Ends of the 95 % interval of a probability (Wilson, 1927), seen as ``fraction`` of ``count`` examples.

    Args:
        count: How many examples there are, at least 1.
        fraction: Which share of them is right.
    """
    shrunk = 1 + _Z**2 / count
    centre = (fraction + _Z**2 / (2 * count)) / shrunk
    half = _Z * sqrt(fraction * (1 - fraction) / count + _Z**2 / (4 * count**2)) / shrunk
    return centre - half, centre + half


def _draw_accuracy(axes: Axes, bins: Sequence[Bin]) -> None:
    confidence, accuracy = [item.confidence for item in bins], [item.accuracy for item in bins]
    low, high = zip(*(wilson(item.count, item.accuracy) for item in bins), strict=True)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
    axes.vlines(confidence, confidence, accuracy, color=UNDECIDED, linewidth=6, label="calibration error")
    axes.vlines(confidence, low, high, color=ON, linewidth=1, label="95 % interval")
    axes.plot(confidence, accuracy, "o", color=ON, markersize=6, clip_on=False, zorder=3, label="examples of a bin")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy", fontsize=9)


def _draw_counts(axes: Axes, bins: Sequence[Bin]) -> None:
    left, width, count = zip(*((item.low, item.high - item.low, item.count) for item in bins), strict=True)
    axes.bar(left, count, width, align="edge", color=ON, edgecolor="white", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(0.5, 1.5 * max(count))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_ylabel("examples", fontsize=9)
    axes.set_xlabel("confidence: probability of the class that is taken", fontsize=9)
