"""Which inputs act together: shares of a prediction's variance, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.reports.picture import LINE, OFF, ON, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_INPUTS = 20
"""The largest number of inputs in a picture: those with the largest shares, in the order of their columns."""
MOST_NUMBERS = 12
"""Up to so many inputs every cell has its number."""


@checked_arguments
def draw_interactions(shares: Tensor, path: str | Path, *, names: Sequence[str] | None = None, title: str = "") -> None:
    """Draw what `selection.interactions` gives, as PNG, written atomically.

    On the left a cell for every pair of inputs, darker the more of the prediction's variance goes through the two
    together; on the right a bar for every input, as long as the share that goes through it at all. The scale of colours
    ends at the strongest pair. Of more than 20 inputs those 20 with the longest bars are drawn.

    Args:
        shares: Symmetric, shape ``(k, k)``, k at least 2, not negative: pairs off the diagonal, single inputs on it.
        path: File to write.
        names: What the inputs are called; ``x0``, ``x1``, … by default.
        title: What stands above the picture.

    Raises:
        ConfigError: for shares that are not symmetric, are negative or NaN, and for names that are not one an input.
        FileError: if the file cannot be written.
    """
    found = _checked(shares)
    count = len(found)
    if names is not None and len(names) != count:
        raise ConfigError(f"draw_interactions: expected a name for each of {count} inputs, got {len(names)}")
    called = [f"x{k}" for k in range(count)] if names is None else [str(name) for name in names]
    shown = found.diagonal().sort(descending=True, stable=True).indices[:MOST_INPUTS].sort().values
    found, called = found[shown][:, shown], [called[k] for k in shown.tolist()]
    size = 0.42 * len(called)
    left = f"the {len(called)} of {count} inputs with the largest shares" if len(called) < count else ""
    figure = new_figure(size + 5.0, size + 1.3 + (0.35 if title else 0.0), title)
    pairs, bars = figure.subplots(1, 2, width_ratios=[size + 1.5, 2.5], sharey=True)
    _draw_pairs(pairs, found, called)
    _draw_bars(bars, found.diagonal())
    if left:
        figure.supxlabel(left, fontsize=8)
    save(figure, path)


def _checked(shares: Tensor) -> Tensor:
    """Shares as float64 on the CPU, if they can be some.

    Args:
        shares: What a user gave.
    """
    values = shares.detach().to("cpu", torch.float64)
    if values.dim() != 2 or len(values) < 2 or values.shape[0] != values.shape[1]:
        raise ConfigError(
            "draw_interactions: expected the shares of pairs of inputs that selection.interactions gives, shape (k, k) "
            f"with k at least 2, got shape {tuple(values.shape)}"
        )
    if not bool((values.isfinite() & (values >= 0)).all()) or not torch.allclose(values, values.T):
        raise ConfigError(
            "draw_interactions: expected shares that are finite, not negative, and the same for (j, k) as for (k, j)"
        )
    return values


def _draw_pairs(axes: Axes, shares: Tensor, names: list[str]) -> None:
    """The cells below the diagonal.

    Args:
        axes: Where to draw.
        shares: Of pairs and inputs, shape ``(k, k)``.
        names: Of the inputs.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import PercentFormatter

    count = len(names)
    below = torch.ones(count, count, dtype=torch.bool).tril(-1)
    strongest = float(shares[below].max())
    colours = LinearSegmentedColormap.from_list("pairs", [OFF, ON])
    cells = shares.masked_fill(~below, float("nan")).numpy()
    mesh = axes.pcolormesh(cells, cmap=colours, vmin=0, vmax=strongest or 1.0, edgecolors="white", linewidth=1.0)
    if count <= MOST_NUMBERS:
        for row, column in below.nonzero().tolist():
            value = float(shares[row, column])
            colour = "white" if value > 0.6 * strongest else LINE
            place = (column + 0.5, row + 0.5)
            axes.text(*place, f"{100 * value:.1f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_ylim(count, 0)
    axes.set_yticks([row + 0.5 for row in range(count)], names, fontsize=8)
    axes.set_xticks([column + 0.5 for column in range(count)], names, fontsize=8, rotation=90)
    axes.set_xlim(0, count)
    axes.set_title("% of the variance through both together", fontsize=8, loc="left")
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    if count > MOST_NUMBERS:
        bar = axes.figure.colorbar(mesh, ax=axes, location="left", pad=0.02, aspect=30, format=PercentFormatter(1.0))
        bar.ax.tick_params(labelsize=7, length=2)


def _draw_bars(axes: Axes, shares: Tensor) -> None:
    """How much goes through each input at all.

    Args:
        axes: Where to draw, beside the cells.
        shares: Of the inputs, shape ``(k,)``.
    """
    rows, values = [row + 0.5 for row in range(len(shares))], shares.tolist()
    longest = max(values) or 1.0
    axes.barh(rows, values, height=0.72, color=ON, linewidth=0)
    for row, value in zip(rows, values, strict=True):
        axes.text(value + 0.02 * longest, row, f"{100 * value:.1f}", va="center", fontsize=7.5)
    axes.set_xlim(0, 1.2 * longest)
    axes.set_xticks([])
    axes.set_title("% through it at all", fontsize=8, loc="left")
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
