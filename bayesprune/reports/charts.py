"""The charts of a page, as Vega-Lite (Satyanarayan et al. 2017) takes them; colours are those of the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayesprune.reports.layers import DOUBT, Layer, plain
from bayesprune.reports.reliability import wilson
from bayesprune.training.history import EpochRow, History

BLUE, AMBER, GREY, TEXT = "var(--on)", "var(--undecided)", "var(--muted)", "var(--text)"
PALETTE = ["#3d85c6", "#d07a10", "#3a9c6d", "#b5599b", "#8a7a22", "#7a6fd0", "#c4574a", "#4a9aa8"]
"""Of runs that are compared; all stand out on light and on dark, also for who sees few colours."""
MOST_POINTS, MOST_INPUTS = 240, 60
"""How many structures of a layer a chart shows at most, and how many inputs have a bar."""
CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": GREY, "titleColor": GREY, "gridColor": "var(--line)", "domainColor": "var(--line)"},
        **{"tickColor": "var(--line)", "titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 11},
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False},
    "legend": {"labelColor": TEXT, "title": None, "orient": "top", "labelFontSize": 11, "symbolStrokeWidth": 2},
    "text": {"fill": GREY},
}
"""How all charts look."""


@dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Attributes:
        key: Part of its address on the page.
        title: What stands above it.
        text: What it shows, in a sentence: its caption, and what a screen reader says of it.
        spec: What Vega-Lite draws.
    """

    key: str
    title: str
    text: str
    spec: Mapping[str, Any]


def learning(rows: Sequence[EpochRow]) -> Chart:
    """Accuracy after every epoch, or the loss where there is none."""
    known = any(math.isfinite(row.val_accuracy) for row in rows)
    name, title = ("val_accuracy", "accuracy") if known else ("nll", "negative log-likelihood, nats")
    values = [{"epoch": row.epoch, "value": plain(getattr(row, name)), "phase": row.phase} for row in rows]
    what = "Accuracy on the validation examples" if known else "Negative log-likelihood of the training batches"
    first, last = (getattr(row, name) for row in (rows[0], rows[-1]))
    text = f"{what} after every epoch: {_figure(first, known)} after the first, {_figure(last, known)} after the last."
    y = _quantity("value", title, zero=False, form=".1%" if known else ".3~f")
    spec = _spec(values, {"mark": _line(BLUE), "encoding": {"x": _epoch(), "y": y, "tooltip": _all("phase", y=y)}})
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
    y = _quantity("left", "share left", form="%")
    y["scale"] = {"domain": [0, 1]}
    drawn = {"mark": _line(), "encoding": {"x": _epoch(), "y": y, **style, "tooltip": _all("what", y=y)}}
    last = [value for value in values if value["epoch"] == history.rows[-1].epoch]
    text = "Left of the start: " + ", ".join(f"{value['what']} {100 * value['left']:.1f} %" for value in last)
    if budget is None:
        return Chart("shrinking", "What is left", f"{text}.", _spec(values, drawn))
    rule = {
        "data": {"values": [{"left": budget[1]}]},
        "mark": {"type": "rule", "color": GREY, "strokeDash": [4, 3]},
        "encoding": {"y": {"field": "left", "type": "quantitative"}},
    }
    text += f". The dashed line is the budget: {100 * budget[1]:g} % of the {budget[0]}."
    return Chart("shrinking", "What is left", text, _spec(values, drawn, rule))


def pricing(rows: Sequence[EpochRow], budget: bool) -> Chart | None:
    """ν after every epoch; ``None`` where prices are constant.

    Args:
        rows: The epochs.
        budget: Whether ν is the multiplier of one.
    """
    values = [{"epoch": row.epoch, "value": plain(row.nu), "phase": row.phase} for row in rows if math.isfinite(row.nu)]
    if not values:
        return None
    y = _quantity("value", "ν, nats per example", form=".3~g")
    spec = _spec(values, {"mark": _line(AMBER), "encoding": {"x": _epoch(), "y": y, "tooltip": _all("phase", y=y)}})
    title = "Multiplier of the budget" if budget else "Price of the whole cost"
    return Chart("price", title, f"{title}, ν, after every epoch; it ends at {values[-1]['value']:.4g}.", spec)


def evidence(layer: Layer, number: int) -> Chart | None:
    """What the structures of a layer are worth to the data, beyond what they cost, with intervals.

    Args:
        layer: The layer.
        number: Its place on the page.
    """
    known = (layer.evidence[:, 2].isfinite()).nonzero()[:, 0].tolist()
    if not known:
        return None
    ordered = sorted(known, key=lambda k: float(layer.evidence[k, 1]))
    shown = [ordered[round(k * (len(ordered) - 1) / max(1, MOST_POINTS - 1))] for k in range(min(len(ordered), MOST_POINTS))]
    shown = ordered if len(ordered) <= MOST_POINTS else shown
    values = []
    for rank, k in enumerate(shown):
        net, half = -float(layer.evidence[k, 1]), 1.96 * float(layer.evidence[k, 2])
        state = "stays" if layer.left[k] else "went"
        values.append(
            {"rank": rank, "name": layer.names[k], "state": state, "worth": plain(net)}
            | {"low": plain(net - half), "high": plain(net + half)}
        )
    return Chart(f"evidence-{number}", layer.title, _said_of(layer, len(shown), len(known)), _worths(values))


def _worths(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Points with intervals by rank, about a line at 0."""
    scale = {"type": "symlog", "constant": 1e-3}
    axis = {"title": "worth − price, nats", "format": ".0e", "values": [-1, -0.1, -0.01, -0.001, 0, 0.001, 0.01, 0.1, 1]}
    y = {"field": "worth", "type": "quantitative", "scale": scale, "axis": axis | {"labelExpr": "datum.value == 0 ? '0' : format(datum.value, '.3~g')"}}
    x = {"field": "rank", "type": "quantitative", "axis": None, "scale": {"nice": False, "padding": 4}}
    color = {
        **{"field": "state", "type": "nominal", "legend": None},
        "scale": {"domain": ["stays", "went"], "range": [BLUE, AMBER]},
    }
    tips = [{"field": name, "title": title} for name, title in (("name", "structure"), ("state", "it"))]
    tips += [{"field": name, "type": "quantitative", "format": ".3g"} for name in ("worth", "low", "high")]
    interval = {
        "mark": {"type": "rule", "opacity": 0.45},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color},
    }
    points = {
        "mark": {"type": "point", "filled": True, "size": 16, "opacity": 1},
        "encoding": {"x": x, "y": y, "color": color, "tooltip": tips},
    }
    zero = {"mark": {"type": "rule", "color": GREY}, "encoding": {"y": {"datum": 0}}}
    return _spec(values, zero, interval, points, height=150)


def _said_of(layer: Layer, shown: int, known: int) -> str:
    """The caption of `evidence`."""
    row = layer.summary()
    part = f" {shown} of {known} are shown." if shown < known else ""
    return (
        f"{row.left} of {row.start} stay; of {row.measured} that went and were measured, {row.clear} are clearly not worth "
        f"their price.{part}"
    )


def reliability(bins: Iterable[Mapping[str, float]]) -> Chart:
    """Confidence against accuracy.

    Args:
        bins: ``count``, ``confidence`` and ``accuracy`` of each bin that has examples.
    """
    values = []
    for each in bins:
        low, high = wilson(int(each["count"]), each["accuracy"])
        names = ("count", "confidence", "accuracy")
        values.append({name: plain(each[name]) for name in names} | {"low": plain(low), "high": plain(high)})
    x, y = _quantity("confidence", "confidence", form="%"), _quantity("accuracy", "accuracy", form="%")
    x["scale"] = y["scale"] = {"domain": [0, 1]}
    diagonal = {
        "data": {"values": [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]},
        "mark": {"type": "line", "color": GREY, "strokeDash": [4, 3], "strokeWidth": 1},
        "encoding": {"x": x, "y": y},
    }
    interval = {
        "mark": {"type": "rule", "color": BLUE},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
    }
    tips = [{"field": "count", "title": "examples"}, _tip(x), _tip(y)]
    points = {
        "mark": {"type": "point", "filled": True, "color": BLUE, "size": 60, "opacity": 1},
        "encoding": {"x": x, "y": y, "tooltip": tips},
    }
    text = (
        "Test examples of like confidence: their mean confidence against the share that is right, with 95 % intervals. "
        "On the dashed line the probabilities mean what they say."
    )
    return Chart("reliability", "How far its probabilities can be believed", text, _spec(values, diagonal, interval, points, height=260))


def inclusion(layer: Layer, num_data: int | None) -> Chart:
    """The probabilities that inputs matter, highest first, with intervals where evidence has an error.

    Args:
        layer: The inputs.
        num_data: N, by which errors in nats per example become those of log odds.
    """
    theta = layer.theta[-1].double()
    order = theta.argsort(descending=True, stable=True)[:MOST_INPUTS].tolist()
    logits = theta.logit()
    half = 1.96 * (num_data or 0) * layer.evidence[:, 2].double().nan_to_num(0.0)
    low, high = (logits - half).sigmoid(), (logits + half).sigmoid()
    inside = (theta > 0) & (theta < 1) & (half > 0)
    values = [
        {"name": layer.names[k], "probability": plain(float(theta[k]))}
        | ({"low": plain(float(low[k])), "high": plain(float(high[k]))} if inside[k] else {})
        for k in order
    ]
    y = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "labelColor": TEXT, "labelLimit": 160}}
    x = _quantity("probability", "posterior inclusion probability", form=".2~f")
    x["scale"] = {"domain": [0, 1]}
    ground = {"mark": {"type": "bar", "color": "var(--line)"}, "encoding": {"y": y, "x": {"datum": 1}}}
    bars = {"mark": {"type": "bar", "color": BLUE}, "encoding": {"y": y, "x": x, "tooltip": [{"field": "name"}, _tip(x)]}}
    whiskers = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "color": TEXT, "strokeWidth": 1.5},
        "encoding": {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}},
    }
    text = f"{int(layer.left.sum())} of {len(theta)} inputs are more likely in than out."
    if bool(inside.any()):
        text += " Whiskers: 95 % intervals of the sampling error of the evidence."
    if len(theta) > MOST_INPUTS:
        text += f" The first {MOST_INPUTS} are shown."
    spec = _spec(values, ground, bars, whiskers, height=18 * len(order))
    return Chart("inclusion", "Which inputs matter", text, spec)


def trajectories(runs: Mapping[str, History], start: Mapping[str, float]) -> Chart:
    """Accuracy over the share of multiply-adds that is left, from epoch to epoch; a point where each run ends.

    Args:
        runs: Records, by the names of the runs.
        start: Their multiply-adds at the start.
    """
    values, ends = [], []
    for name, history in runs.items():
        path = [
            {"run": name, "epoch": row.epoch, "left": plain(row.macs / start[name]), "accuracy": plain(row.val_accuracy)}
            for row in history.rows
        ]
        values += path
        ends += path[-1:]
    color = {"field": "run", "type": "nominal", "scale": {"domain": [*runs], "range": PALETTE}}
    x, y = _quantity("left", "multiply-adds left", form="%"), _quantity("accuracy", "accuracy", zero=False, form=".1%")
    encoding = {"x": x, "y": y, "color": color}
    tips = [{"field": "run"}, {"field": "epoch"}, _tip(x), _tip(y)]
    lines = {"mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.6}, "encoding": encoding | {"order": {"field": "epoch"}}}
    points = {
        "data": {"values": ends},
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": encoding | {"tooltip": tips},
    }
    text = "From epoch to epoch: accuracy over the multiply-adds left. A point is where a run ends; up and left is better."
    return Chart("runs", "Accuracy and cost of the runs", text, _spec(values, lines, points, height=280))


def theta(epochs: int) -> Chart:
    """θ over the epochs of the structure that is pointed at, which the script fills in as data ``theta``.

    Args:
        epochs: How many there are.
    """
    x = _epoch() | {"scale": {"domain": [0, epochs], "nice": False}}
    y = _quantity("theta", "θ", form=".2~f") | {"scale": {"domain": [0, 1]}}
    line = {"mark": {"type": "line", "color": BLUE, "strokeWidth": 2}, "encoding": {"x": x, "y": y}}
    spec = _spec([], line, height=110)
    spec["data"]["name"] = "theta"
    return Chart("theta", "θ", "θ of the structure over the epochs", spec)


def _spec(values: list[dict[str, Any]], *layer: Mapping[str, Any], height: int = 190) -> dict[str, Any]:
    fit = {"type": "fit", "contains": "padding"}
    return {"data": {"values": values}, "width": "container", "height": height, "autosize": fit, "layer": list(layer)}


def _line(color: str | None = None) -> dict[str, Any]:
    return {"type": "line", "strokeWidth": 2, "point": {"size": 90, "opacity": 0}} | ({"color": color} if color else {})


def _epoch() -> dict[str, Any]:
    return {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickMinStep": 1, "format": "d"}}


def _quantity(field: str, title: str, *, form: str, zero: bool = True) -> dict[str, Any]:
    scale = {"zero": zero}
    return {"field": field, "type": "quantitative", "title": title, "axis": {"format": form, "tickCount": 5}, "scale": scale}


def _tip(channel: Mapping[str, Any]) -> dict[str, Any]:
    form = {".1%": ".2%", "%": ".2%"}.get(channel["axis"]["format"], ".4~g")
    return {"field": channel["field"], "type": "quantitative", "title": channel["title"], "format": form}


def _all(name: str, *, y: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"field": "epoch"}, {"field": name}, _tip(y)]


def _figure(value: float, share: bool) -> str:
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"
