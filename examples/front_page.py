r"""The picture on README's first screen: a network that shrinks while it learns, and accuracy over what is left of it.

    python examples/front_page.py
    bayesprune train --out digits
    bayesprune compare examples/benchmarks/reduced.toml --tasks lenet300-mnist --out reduced --data-dir DIR
    python examples/front_page.py --history digits/history.csv --rows reduced/rows.csv --out docs/pictures \
        --methods svi,small,none,random_structures,l1_filters,taylor,group_lasso

The left half is drawn from the history of a run, epoch by epoch: validation accuracy, and multiply-adds relative to the
first epoch. The right half is drawn from the rows of a comparison (`bayesprune compare`): for each method means over
seeds with their 95 % intervals, over the multiply-adds that are left. The picture is written twice, for light and for
dark pages. Without arguments a short run and a small comparison are made, and the files go to a temporary folder.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import bayesprune as bp
from bayesprune.comparison import Row
from bayesprune.comparison.goals import DENSE, OURS
from bayesprune.comparison.runs import labels
from bayesprune.comparison.statistics import Line, lines

PALETTES = {
    "light": {"ink": "#1a202c", "page": "#ffffff", "ours": "#2b6cb0", "area": "#bcd4ec"},
    "dark": {"ink": "#e5e7eb", "page": "#0d1117", "ours": "#63b3ed", "area": "#1f4468"},
}
"""Colours of text, page, our own curve, and the area under what is left."""
OTHERS = ("#d97706", "#059669", "#db2777", "#8b7355", "#7c6fd0", "#7f8c1f", "#c2410c", "#6b8e9e")
"""Colours of other methods, legible on both pages."""
MARKERS = "sD^vPX<>*hpd"


def typed(row: Mapping[str, str]) -> Row:
    """A row of a comparison, from its line of a CSV file.

    Args:
        row: Texts by the names of columns.
    """
    kinds = {"int": int, "float": float, "str": str}
    return Row(**{field.name: kinds[str(field.type)](row[field.name]) for field in fields(Row)})


def draw_run(above: Axes, below: Axes, epochs: Sequence[Mapping[str, str]], colours: Mapping[str, str]) -> None:
    """Accuracy above, multiply-adds below, over epochs.

    Args:
        above: Where accuracy goes.
        below: Where multiply-adds go.
        epochs: Rows of ``history.csv``.
        colours: One of `PALETTES`.
    """
    number = [int(row["epoch"]) for row in epochs]
    accuracy = [100 * float(row["val_accuracy"]) for row in epochs]
    most = max(float(row["macs"]) for row in epochs)
    left = [100 * float(row["macs"]) / most for row in epochs]
    above.plot(number, accuracy, color=colours["ours"], linewidth=2)
    above.set_ylabel("accuracy %")
    above.set_title("One run: it learns, and shrinks", loc="left", fontsize=11)
    above.tick_params(labelbottom=False)
    last = f"{accuracy[-1]:.1f} %"
    above.annotate(last, (number[-1], accuracy[-1]), xytext=(0, -14), textcoords="offset points", ha="right")
    below.fill_between(number, left, step="mid", color=colours["area"])
    below.step(number, left, where="mid", color=colours["ours"], linewidth=2)
    below.annotate(f"{left[-1]:.0f} %", (number[-1], left[-1]), xytext=(0, 5), textcoords="offset points", ha="right")
    below.set_ylabel("multiply-adds %")
    below.set_xlabel("epoch")
    below.set_ylim(0, 105)
    below.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_methods(axes: Axes, found: Sequence[Line], colours: Mapping[str, str]) -> None:
    """Accuracy over the multiply-adds that are left, a curve a method, ours on top of the others.

    Args:
        axes: Where.
        found: What the methods came to, of one task and compute.
        colours: One of `PALETTES`.
    """
    with_goal = [line for line in found if line.measure == "macs" and line.comparable and line.method.isidentifier()]
    methods = sorted({line.method for line in with_goal} - {OURS})
    names = labels([*methods, OURS])
    for place, method in enumerate([*methods, OURS]):
        its = sorted((line for line in with_goal if line.method == method), key=lambda line: line.share)
        half = [100 * line.accuracy.half if math.isfinite(line.accuracy.half) else 0 for line in its]
        ours = method == OURS
        shift = 1.04 ** (len(methods) / 2 - place)  # so that intervals at one goal stand beside each other
        axes.errorbar(
            [100 * line.mean("macs_left") * shift for line in its],
            [100 * line.accuracy.mean for line in its],
            half,
            color=colours["ours"] if ours else OTHERS[place % len(OTHERS)],
            marker="o" if ours else MARKERS[place % len(MARKERS)],
            linewidth=2.4 if ours else 1.2,
            markersize=7 if ours else 5,
            elinewidth=1,
            capsize=2,
            label=names[method],
        )
    for line in found:
        if line.method == DENSE:
            dots = (0, (1, 3))
            axes.axhline(100 * line.accuracy.mean, color=colours["ink"], linewidth=0.8, linestyle=dots, label="dense")
    shares = sorted({line.share for line in with_goal})
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("multiply-adds left %")
    axes.set_ylabel("test accuracy %")
    axes.set_title("Beside other methods, within a dense run's compute", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, labelcolor=colours["ink"], loc="upper left", bbox_to_anchor=(1, 1))


def draw(epochs: Sequence[Mapping[str, str]], found: Sequence[Line], colours: Mapping[str, str]) -> Figure:
    """The whole picture.

    Args:
        epochs: Rows of ``history.csv``.
        found: What the methods came to, of one task and compute.
        colours: One of `PALETTES`.
    """
    look = {f"{part}.color": colours["ink"] for part in ("text", "xtick", "ytick")} | {"font.size": 9}
    look |= {"axes.edgecolor": colours["ink"], "axes.labelcolor": colours["ink"], "axes.titlecolor": colours["ink"]}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(10.4, 3.6), layout="constrained", facecolor=colours["page"])
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.1))
        above, below, right = (figure.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
        draw_run(above, below, epochs, colours)
        draw_methods(right, found, colours)
        for axes in (above, below, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_facecolor(colours["page"])
    return figure


def write(history: Path, rows: Path, task: str | None, methods: Sequence[str], out: Path) -> list[Path]:
    """Draw the pictures.

    Args:
        history: ``history.csv`` of a run.
        rows: ``rows.csv`` of a comparison.
        task: The task, where the comparison has several.
        methods: Those that are drawn; all if none is named.
        out: Folder for the pictures.

    Returns:
        The files.
    """
    with history.open(newline="") as file:
        epochs = list(csv.DictReader(file))
    with rows.open(newline="") as file:
        every = [row for row in map(typed, csv.DictReader(file)) if row.stage == "test"]
    task = task or every[0].task
    compute = min(row.compute for row in every if row.task == task)
    drawn = methods or {row.method for row in every}
    found = lines([row for row in every if (row.task, row.compute) == (task, compute) and row.method in drawn])
    written = []
    for name, colours in PALETTES.items():
        written.append(out / f"front-{name}.png")
        draw(epochs, found, colours).savefig(written[-1], dpi=160)
    return written


def small_run(folder: Path) -> tuple[Path, Path]:
    """A short run and a small comparison, for a look at the picture.

    Args:
        folder: Where their files go.

    Returns:
        ``history.csv`` and ``rows.csv``.
    """
    digits = bp.data.load("digits")
    train, test = bp.data.loaders(digits, batch_size=64, seed=0)
    bnn = bp.BayesianNet(bp.networks.lenet300(digits.input_shape, digits.num_classes), num_data=len(digits.train))
    history = bp.fit(bnn, train, epochs=12, val_loader=test)
    history.write_csv(folder / "history.csv")
    plan = {
        "title": "for a look at the picture",
        "seeds": [0, 1],
        "macs": [0.5, 0.2],
        "tuning": {"trials": 1, "seed": 1000},
        "compute": [1],
        "tasks": [{"net": "lenet300", "data": "digits", "limit": 300, "epochs": 6}],
        "methods": {"svi": {}, "l1_filters": {}},
    }
    bp.compare(plan, out=folder / "comparison")
    return folder / "history.csv", folder / "comparison" / "rows.csv"


def main() -> None:
    """Read or make what is drawn, and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--history", type=Path, help="history.csv of a run")
    parser.add_argument("--rows", type=Path, help="rows.csv of a comparison")
    parser.add_argument("--task", help="which task of the comparison; its first one by default")
    parser.add_argument("--methods", default="", help="which methods of it, as a,b,c; all by default")
    parser.add_argument("--out", type=Path, help="folder for front-light.png and front-dark.png")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        assert (given.history is None) == (given.rows is None), "--history and --rows go together"
        history, rows = (given.history, given.rows) if given.rows else small_run(Path(folder))
        pictures = write(
            history, rows, given.task, [*filter(None, given.methods.split(","))], given.out or Path(folder)
        )
        for picture in pictures:
            print(f"{picture.name}: {picture.stat().st_size / 1024:.0f} KiB")
        assert [picture.name for picture in pictures] == ["front-light.png", "front-dark.png"]
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


if __name__ == "__main__":
    main()
