"""The gates over training, as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import write_atomically
from bayesprune.errors import ConfigError
from bayesprune.reports.summary import CONVERGED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

ON, UNDECIDED, OFF, LINE = "#2b6cb0", "#f2b263", "#e4e7eb", "#1a202c"


@checked_arguments
def draw_gates(thetas: Mapping[str, Sequence[Tensor]], path: str | Path, *, title: str = "") -> None:
    """Draw how θ of every gate moved, as PNG, written atomically.

    A module with several gates has a panel with the number of gates that are on, undecided and off at the end of every
    epoch, and a line for the expected number on. Modules with one gate (branches) share a panel: one row each, θ as
    colour.

    Args:
        thetas: By module name, one vector with θ of all starting gates (0 where removed) at the start and after each
            epoch, as in `History.thetas`.
        path: File to write.
        title: What stands above the picture.

    Raises:
        ConfigError: if there is no gate.
    """
    if not thetas:
        raise ConfigError("draw_gates: thetas holds no gates; give those of a network that has some")
    paths = {name: torch.stack(list(path)) for name, path in thetas.items()}
    layers = {name: path for name, path in paths.items() if path.shape[1] > 1}
    branches = {name: path[:, 0] for name, path in paths.items() if path.shape[1] == 1}
    columns, rows = grid(len(layers))
    heights = [2.2 * rows] * bool(layers) + [0.9 + 0.2 * len(branches)] * bool(branches)
    figure = new_figure(max(2.7 * columns, 6.5), sum(heights) + 0.7, title)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if layers:
        _draw_layers(parts[0], layers, columns, rows)
    if branches:
        _draw_branches(parts[-1].subplots(), branches)
    save(figure, path)


def grid(panels: int) -> tuple[int, int]:
    """Columns and rows for so many panels: at most four columns up to 16 panels, six beyond."""
    columns = min(panels, 3 if panels <= 9 else 4 if panels <= 16 else 6) or 1
    return columns, math.ceil(panels / columns)


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure of so many inches that needs no display and leaves the state of pyplot alone.

    Args:
        width: In inches.
        height: In inches.
        title: Above the figure; empty for none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, as all of matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` as PNG, atomically.

    Args:
        figure: What to write.
        path: The file.

    Raises:
        FileError: if it cannot be written there.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(Path(path), content.getvalue())


def colormap() -> Colormap:
    """θ as colour, in all pictures alike: off, undecided, on."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("gates", [OFF, UNDECIDED, ON])


def label(name: str) -> str:
    """What a module is called in a picture: modules of a `torch.nn.Sequential` have bare numbers for names."""
    return f"module {name}" if name.isdigit() else name


def _draw_layers(part: SubFigure, layers: Mapping[str, Tensor], columns: int, rows: int) -> None:
    """One panel for each module, and one legend for all."""
    panels = part.subplots(rows, columns, squeeze=False).flat
    for place, (name, path) in enumerate(layers.items()):
        _draw_layer(panels[place], name, path, last_row=place + columns >= len(layers))
    for unused in panels[len(layers) :]:
        unused.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    part.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)


def _draw_layer(axes: Axes, name: str, path: Tensor, *, last_row: bool) -> None:
    """Stacked counts of gates on, undecided and off, ``path`` of shape ``(epochs + 1, gates)``."""
    from matplotlib.ticker import MaxNLocator

    epochs = range(len(path))
    on = (path >= 1 - CONVERGED).sum(1)
    off = (path <= CONVERGED).sum(1)
    size = path.shape[1]
    axes.stackplot(
        epochs,
        on.tolist(),
        (size - on - off).tolist(),
        off.tolist(),
        labels=[f"on (θ ≥ {1 - CONVERGED})", "undecided", f"off or removed (θ ≤ {CONVERGED})"],
        colors=[ON, UNDECIDED, OFF],
        linewidth=0,
    )
    axes.plot(epochs, path.sum(1).tolist(), color=LINE, linewidth=1.4, label="expected number on")
    axes.set_title(f"{label(name)}: {size} → {float(path[-1].sum()):.3g}", fontsize=9)
    axes.set_xlim(0, max(1, len(path) - 1))
    axes.set_ylim(0, size)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    if last_row:
        axes.set_xlabel("epoch", fontsize=8)


def _draw_branches(axes: Axes, branches: Mapping[str, Tensor]) -> None:
    """θ of single gates as colour, one row each, ``branches[name]`` of shape ``(epochs + 1,)``."""
    from matplotlib.ticker import MaxNLocator

    values = torch.stack(list(branches.values()))
    mesh = axes.pcolormesh(values.numpy(), cmap=colormap(), vmin=0, vmax=1)
    for row in range(1, len(branches)):
        axes.axhline(row, color="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_yticks([row + 0.5 for row in range(len(branches))], [label(name) for name in branches], fontsize=7)
    ticks = [
        int(tick)
        for tick in MaxNLocator(8, integer=True).tick_values(0, values.shape[1] - 1)
        if 0 <= tick < values.shape[1]
    ]
    axes.set_xticks([tick + 0.5 for tick in ticks], [str(tick) for tick in ticks], fontsize=7)
    axes.set_xlabel("epoch", fontsize=8)
    axes.tick_params(length=2)
    axes.set_title(
        f"modules with one gate: {len(branches)} → {float(values[:, -1].sum()):.3g} expected on", fontsize=9, loc="left"
    )
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
    bar.set_label("θ", fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
