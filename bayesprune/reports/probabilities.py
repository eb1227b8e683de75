"""Posterior gate probabilities at one moment, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.reports.picture import OFF, ON, colormap, label, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure


@checked_arguments
def draw_probabilities(
    thetas: Mapping[str, Tensor],
    path: str | Path,
    *,
    title: str = "",
    inputs: tuple[str, tuple[int, ...]] | None = None,
) -> None:
    """Draw θ of every gate, as PNG, written atomically.

    Each module has a row in which its gates stand sorted by θ, highest first, and θ is the height: converged gates make
    a block as wide as the share that is on, undecided ones a slope.

    Args:
        thetas: By module name, θ of all starting gates, shape ``(gates,)``, 0 where removed.
        path: File to write.
        title: What stands above the picture.
        inputs: Name of the gate on the inputs and the shape of one example, ``(H, W)`` or ``(C, H, W)``: its θ are
            shown once more as an image, the mean over channels.
    """
    rows_height = 0.9 + max(1.6, len(thetas) * (0.55 if len(thetas) <= 12 else 0.24))
    figure = new_figure(11.0 if inputs else 7.5, max(rows_height, 4.2 if inputs else 0.0), title)
    widths = [1.7, 1.0] if inputs else [1.0]
    parts = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_rows(parts[0].subplots(), thetas)
    if inputs is not None:
        _draw_inputs(parts[1], thetas[inputs[0]], inputs[1])
    save(figure, path)


def _draw_rows(axes: Axes, thetas: Mapping[str, Tensor]) -> None:
    height = 0.82
    for row, theta in enumerate(thetas.values()):
        ordered = theta.sort(descending=True).values.tolist()
        edges = [k / len(ordered) for k in range(len(ordered) + 1)]
        base = row + (1 + height) / 2
        axes.stairs([base - height] * len(ordered), edges, baseline=base, fill=True, color=OFF)
        axes.stairs([base - height * value for value in ordered], edges, baseline=base, fill=True, color=ON)
        number = f"θ = {ordered[0]:.3f}" if len(ordered) == 1 else f"{sum(ordered):.1f} of {len(ordered)}"
        axes.text(1.01, row + 0.5, number, va="center", fontsize=7.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(thetas), 0)
    axes.set_yticks([row + 0.5 for row in range(len(thetas))], [label(name) for name in thetas], fontsize=8)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=8)
    axes.set_xlabel("gates of the module, sorted by θ (height: θ from 0 to 1; right: expected number on)", fontsize=8)
    axes.tick_params(length=2)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_inputs(part: SubFigure, theta: Tensor, shape: tuple[int, ...]) -> None:
    *channels, height, width = shape
    image = theta.reshape(math.prod(channels), height, width).mean(0)
    axes = part.subplots()
    mesh = axes.imshow(image.numpy(), cmap=colormap(), vmin=0, vmax=1, interpolation="nearest")
    axes.set_title("gates on the inputs", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    bar = part.colorbar(mesh, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("θ", fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
