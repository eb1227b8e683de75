"""Charts of how a run went, over its epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bayesprune.reports.chart import AMBER, BLUE, GREY, TEXT, Chart, epoch, layered, line, quantity, tip, tips
from bayesprune.reports.layers import plain
from bayesprune.training.history import EpochRow, History

PALETTE = ["#3d85c6", "#d07a10", "#3a9c6d", "#b5599b", "#8a7a22", "#7a6fd0", "#c4574a", "#4a9aa8"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
"""Of runs that are compared; all stand out on light and on dark, also for who sees few colours."""

PART, LEAST = 2.0, 0.01
"""Runs are compared up to so many times the largest cost that one ends with, and on an axis of accuracy on which their
ends are as far apart as a third of it, or so much of it is."""


def learning(rows: Sequence[EpochRow], split: str) -> Chart:
    """Accuracy after every epoch, or the loss where there is none.

    Args:
        rows: The epochs.
        split: Which examples the accuracy is of, ``test`` or ``validation``.
    """
    known = any(math.isfinite(row.val_accuracy) for row in rows)
    name, title = ("val_accuracy", "accuracy") if known else ("nll", "negative log-likelihood, nats")
    values = [{"epoch": row.epoch, "value": plain(getattr(row, name)), "phase": row.phase} for row in rows]
    what = f"Accuracy on the {split} examples" if known else "Negative log-likelihood of the training batches"
    first, last = (getattr(row, name) for row in (rows[0], rows[-1]))
    text = f"{what} after every epoch: {_figure(first, known)} after the first, {_figure(last, known)} after the last."
    y = quantity("value", title, zero=False, form=".3~p" if known else ".3~f")
    spec = layered(
        values, {"mark": line(BLUE), "encoding": {"x": epoch(rows[-1].epoch), "y": y, "tooltip": tips("phase", y=y)}}
    )
    return Chart("learning", title.partition(",")[0].capitalize(), text, spec)


def shrinking(history: History, start: Mapping[str, float], budget: tuple[str, float] | None) -> Chart:
    """What is left after every epoch, and what the budget allows.

    Args:
        history: The record.
        start: Gates, parameters and multiply-adds at the start, by name.
        budget: Its measure and fraction, if there is one.
    """
    fields = {"gates": "gates_left", "parameters": "params", "multiply-adds": "macs"}
    values = [
        {"epoch": row.epoch, "what": what, "left": plain(getattr(row, name) / start[what])}
        for row in history.rows
        for what, name in fields.items()
        if start.get(what)
    ]
    kinds = {"color": [BLUE, AMBER, TEXT], "strokeDash": [[1, 0], [1, 0], [5, 3]]}
    style = {
        channel: {"field": "what", "type": "nominal", "scale": {"domain": [*fields], "range": values}}
        for channel, values in kinds.items()
    }
    y = quantity("left", "share left", form=".3~p")
    y["scale"] = {"domain": [0, 1]}
    drawn = {
        "mark": line(),
        "encoding": {"x": epoch(history.rows[-1].epoch), "y": y, **style, "tooltip": tips("what", y=y)},
    }
    last = {what: getattr(history.rows[-1], name) / start[what] for what, name in fields.items() if start.get(what)}
    text = "Left of the start: " + ", ".join(f"{what} {100 * left:.1f} %" for what, left in last.items())
    if budget is None:
        return Chart("shrinking", "What is left", f"{text}.", layered(values, drawn))
    rule = {
        "data": {"values": [{"left": budget[1]}]},
        "mark": {"type": "rule", "color": GREY, "strokeDash": [4, 3]},
        "encoding": {"y": {"field": "left", "type": "quantitative"}},
    }
    text += f". The dashed line is the budget: {100 * budget[1]:g} % of the {budget[0]}."
    return Chart("shrinking", "What is left", text, layered(values, drawn, rule))


def pricing(rows: Sequence[EpochRow], budget: bool) -> Chart | None:
    """ν after every epoch; ``None`` where prices are constant.

    Args:
        rows: The epochs.
        budget: Whether ν is the multiplier of one.
    """
    values = [{"epoch": row.epoch, "value": plain(row.nu), "phase": row.phase} for row in rows if math.isfinite(row.nu)]
    if not values:
        return None
    y = quantity("value", "ν, nats per example", form=".3~g")
    spec = layered(
        values, {"mark": line(AMBER), "encoding": {"x": epoch(rows[-1].epoch), "y": y, "tooltip": tips("phase", y=y)}}
    )
    title = "Multiplier of the budget" if budget else "Price of the whole cost"
    return Chart("price", title, f"{title}, ν, after every epoch; it ends at {values[-1]['value']:.4g}.", spec)


def trajectories(runs: Mapping[str, History], start: Mapping[str, float]) -> Chart:
    """Accuracy over the share of multiply-adds that is left, from epoch to epoch; a point where each run ends.

    Args:
        runs: Records, by the names of the runs.
        start: Their multiply-adds at the start.
    """
    values, ends = [], []
    for name, history in runs.items():
        path = [(row.epoch, row.macs / start[name], row.val_accuracy) for row in history.rows]
        named = [{"run": name, "epoch": k, "left": plain(left), "accuracy": plain(right)} for k, left, right in path]
        values += named
        ends.append((named[-1], *path[-1][1:]))
    narrow, lowest = PART * max(left for _, left, _ in ends), min(right for *_, right in ends)
    spread = max(max(right for *_, right in ends) - lowest, LEAST)
    color = {"field": "run", "type": "nominal", "scale": {"domain": [*runs], "range": PALETTE}}
    x, y = (
        quantity("left", "multiply-adds left", form=".3~p"),
        quantity("accuracy", "accuracy", zero=False, form=".3~p"),
    )
    x["scale"] = {"domain": [0, min(1.0, narrow)]}
    y["scale"] = {"domain": [lowest - spread, min(1.0, lowest + 2 * spread)]}
    encoding = {"x": x, "y": y, "color": color}
    said = [{"field": "run"}, {"field": "epoch"}, tip(x), tip(y)]
    shape = color | {"scale": {"domain": [*runs], "range": SHAPES}}
    lines = {
        "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.6, "clip": True},
        "encoding": encoding | {"order": {"field": "epoch"}},
    }
    points = {
        "data": {"values": [end for end, *_ in ends]},
        "mark": {"type": "point", "filled": True, "size": 110, "opacity": 0.9},
        "encoding": encoding | {"shape": shape, "tooltip": said},
    }
    text = (
        "Accuracy over the multiply-adds left, from epoch to epoch, near where runs end. A point is where one ends: "
        + "; ".join(f"{end['run']} at {100 * left:.1f} %, {100 * right:.2f} % right" for end, left, right in ends)
        + ". Up and left is better."
    )
    return Chart("runs", "Accuracy and cost of the runs", text, layered(values, lines, points, height=280))


def theta(epochs: int) -> Chart:
    """θ over the epochs of the structure that is pointed at, which the script fills in as data ``theta``.

    Args:
        epochs: How many there are.
    """
    x = epoch(epochs, 0) | {"scale": {"domain": [0, epochs], "nice": False}}
    y = quantity("theta", "θ", form=".2~f") | {"scale": {"domain": [0, 1]}}
    y["axis"]["values"] = [0, 0.5, 1]
    line = {"mark": {"type": "line", "color": BLUE, "strokeWidth": 2}, "encoding": {"x": x, "y": y}}
    spec = layered([], line, height=110)
    spec["data"]["name"] = "theta"
    return Chart("theta", "θ", "θ of the structure over the epochs", spec)


def _figure(value: float, share: bool) -> str:
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"
