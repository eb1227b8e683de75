"""Which inputs matter: posterior inclusion probabilities, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.reports.picture import LINE, OFF, ON, UNDECIDED, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS, TOP_BARS = 40, 20
"""The largest number of bars, and how many inputs have one at least."""
UNLIKELY = "#a0aec0"
BORDER: dict[str, Any] = {"color": LINE, "linewidth": 0.8, "linestyle": (0, (4, 3))}
TICKS = [0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"]


@dataclass(frozen=True)
class _Inputs:
    """Probabilities with what is known of the inputs, checked and in plain types."""

    probabilities: Tensor
    names: Sequence[str]
    truth: Tensor | None
    errors: Tensor | None

    def colors(self) -> list[str]:
        """One colour an input: of its truth where that is known, otherwise of its side of ½."""
        if self.truth is None:
            return [ON if value > 0.5 else UNLIKELY for value in self.probabilities.tolist()]
        return [ON if matters else UNDECIDED for matters in self.truth.tolist()]


@checked_arguments
def draw_inclusion(
    probabilities: Tensor,
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    truth: Tensor | None = None,
    errors: Tensor | None = None,
    title: str = "",
) -> None:
    """Draw posterior inclusion probabilities, as PNG, written atomically.

    Up to 40 inputs get a bar each, highest first. Of more, those above ½ do, but at least 20 and at most 40, and below
    them all stand as stems in the order of their columns. A line marks ½, the border of the median probability model
    (Barbieri & Berger 2004).

    Args:
        probabilities: Inclusion probability of every input, shape ``(d,)``.
        path: File to write.
        names: What the inputs are called; ``x0``, ``x1``, … by default.
        truth: Which inputs matter, bool, shape ``(d,)``, where that is known; colours then tell these from the others,
            otherwise those above ½.
        errors: Standard errors of the probabilities, shape ``(d,)``, drawn as whiskers cut at 0 and 1.
        title: What stands above the picture.

    Raises:
        ConfigError: if there is no input, a probability is outside [0, 1] or NaN, or names, truth or errors are not one
            an input.
    """
    from matplotlib.patches import Patch  # slow to import

    inputs = _read(probabilities, names, truth, errors)
    count = len(inputs.probabilities)
    likely = int((inputs.probabilities > 0.5).sum())
    bars = count if count <= MOST_BARS else min(max(TOP_BARS, likely), MOST_BARS)
    heights = [0.75 + 0.21 * (bars + (bars < count))] + [2.2] * (bars < count)
    figure = new_figure(7.5, sum(heights) + (0.35 if title else 0.0) + (0.0 if truth is None else 0.25), title)
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_bars(panels[0], inputs, bars)
    if bars < count:
        _draw_stems(panels[1], inputs)
    if inputs.truth is not None:
        figure.legend(
            handles=[Patch(color=ON, label="matters"), Patch(color=UNDECIDED, label="does not")],
            loc="outside lower right",
            ncols=2,
            frameon=False,
            fontsize=8,
        )
    save(figure, path)


def _read(probabilities: Tensor, names: Sequence[str] | None, truth: Tensor | None, errors: Tensor | None) -> _Inputs:
    """Check the arguments before anything is drawn."""
    if probabilities.dim() != 1 or probabilities.numel() == 0:
        raise ConfigError(
            f"draw_inclusion: expected one probability an input in shape (d,) with d > 0, got shape "
            f"{tuple(probabilities.shape)}; flatten the probabilities of images"
        )
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ConfigError("draw_inclusion: expected probabilities in [0, 1], got others or NaN; give θ, not log odds")
    count = len(probabilities)
    given = {"names": names, "truth": truth, "errors": errors}
    for name, values in given.items():
        if values is None:
            continue
        shape = tuple(values.shape) if isinstance(values, Tensor) else (len(values),)
        if shape != (count,):
            found = shape[0] if len(shape) == 1 else f"shape {shape}"
            raise ConfigError(f"draw_inclusion: expected one of {name} for each of {count} inputs, got {found}")
    return _Inputs(
        probabilities.detach().to("cpu", torch.float64),
        [f"x{k}" for k in range(count)] if names is None else names,
        None if truth is None else truth.detach().to("cpu", torch.bool),
        None if errors is None else errors.detach().to("cpu", torch.float64),
    )


def _draw_bars(axes: Axes, inputs: _Inputs, bars: int) -> None:
    """The first ``bars`` of the sorted inputs, and a line on the others."""
    values, order = inputs.probabilities.sort(descending=True, stable=True)
    shown, heights, rows = order[:bars].tolist(), values[:bars].tolist(), range(bars)
    colors = inputs.colors()
    axes.barh(rows, 1.0, height=0.72, color=OFF, linewidth=0)
    axes.barh(rows, heights, height=0.72, color=[colors[k] for k in shown], linewidth=0)
    for row, value in zip(rows, heights, strict=True):
        axes.text(1.015, row, f"{value:.2f}", va="center", fontsize=7.5)
    if inputs.errors is not None:
        spread = inputs.errors[shown]
        low, high = (values[:bars] - spread).clamp(min=0), (values[:bars] + spread).clamp(max=1)
        axes.hlines(rows, low.tolist(), high.tolist(), color=LINE, linewidth=1.2)
    rest = len(values) - bars
    if rest:
        most = math.ceil(round(100 * float(values[bars]), 4)) / 100
        axes.text(0.004, bars, f"and {rest:,} more, at most {most:.2f}", va="center", fontsize=8, style="italic")
    axes.axvline(0.5, **BORDER)
    axes.set_xlim(0, 1)
    axes.set_ylim(bars - 0.4 + (rest > 0), -0.6)
    axes.set_yticks(rows, [str(inputs.names[k]) for k in shown], fontsize=8)
    axes.set_xticks(*TICKS, fontsize=8)
    axes.set_xlabel("posterior inclusion probability", fontsize=8)
    axes.tick_params(axis="x", length=2)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_stems(axes: Axes, inputs: _Inputs) -> None:
    """All inputs in the order of their columns; what matters, or is taken to, has a head."""
    from matplotlib.ticker import MaxNLocator

    values = inputs.probabilities
    matters = values > 0.5 if inputs.truth is None else inputs.truth
    colors = inputs.colors()
    for group in (~matters, matters):  # what matters is drawn over the rest
        places = group.nonzero()[:, 0].tolist()
        axes.vlines(places, 0, values[group].tolist(), colors=[colors[k] for k in places], linewidth=1.2)
    heads = (matters | (values > 0.5)).nonzero()[:, 0].tolist()
    axes.scatter(heads, values[heads].tolist(), s=14, color=[colors[k] for k in heads], zorder=3, clip_on=False)
    axes.axhline(0.5, **BORDER)
    axes.set_xlim(-0.01 * len(values), 1.01 * len(values))
    axes.set_ylim(0, 1)
    axes.set_yticks(*TICKS, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.tick_params(labelsize=8, length=2)
    axes.set_xlabel(f"all {len(values):,} inputs, in the order of the columns", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
