"""Charts of what is known at the end, with its uncertainty: evidence, inclusion, reliability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bayesprune.reports.chart import AMBER, BLUE, GREY, TEXT, Chart, layered, quantity, tip
from bayesprune.reports.layers import Layer, plain
from bayesprune.reports.reliability import wilson

MOST_POINTS, MOST_INPUTS = 240, 60
"""How many structures of a layer a chart shows at most, and how many inputs have a bar."""


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
    every = max(1.0, len(ordered) / MOST_POINTS)
    shown = [ordered[int(k * every)] for k in range(min(len(ordered), MOST_POINTS))]
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
    """Points with intervals by rank about a line at 0, on a scale that is linear near it and logarithmic beyond."""
    linear = max(sorted(value["high"] - value["worth"] for value in values)[len(values) // 2], 1e-9)
    largest = max(abs(value["worth"]) for value in values)
    low, high = min(0.0, *(value["low"] for value in values)), max(0.0, *(value["high"] for value in values))
    nice = [step * 10.0**k for k in range(-9, 3) for step in (1, 2, 5)]
    ticks = sorted(
        {max((n for n in nice if n <= top), default=nice[0]) for top in (largest, math.sqrt(largest * linear))}
    )
    shown = [tick for tick in (*(-tick for tick in reversed(ticks)), 0, *ticks) if low <= tick <= high]
    y = {
        **{"field": "worth", "type": "quantitative", "scale": {"type": "symlog", "constant": linear}},
        "axis": {"title": "worth − price, nats", "values": shown, "format": ".3~g"},
    }
    x = {"field": "rank", "type": "quantitative", "axis": None, "scale": {"nice": False, "padding": 4}}
    color = {
        **{"field": "state", "type": "nominal", "legend": None},
        "scale": {"domain": ["stays", "went"], "range": [BLUE, AMBER]},
    }
    tips = [{"field": name, "title": title} for name, title in (("name", "structure"), ("state", "decision"))]
    tips += [{"field": name, "type": "quantitative", "format": ".3g"} for name in ("worth", "low", "high")]
    interval = {
        "mark": {"type": "rule", "opacity": 0.45},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color},
    }
    points = {
        "mark": {"type": "point", "filled": True, "size": 90 if len(values) <= 40 else 16, "opacity": 1},
        "encoding": {"x": x, "y": y, "color": color, "tooltip": tips},
    }
    zero = {"mark": {"type": "rule", "color": GREY}, "encoding": {"y": {"datum": 0}}}
    return layered(values, zero, interval, points, height=150)


def _said_of(layer: Layer, shown: int, known: int) -> str:
    """The caption of `evidence`."""
    row = layer.summary()
    part = f" {shown} of {known} are shown." if shown < known else ""
    return (
        f"{row.left} of {row.start} stay; of {row.measured} that went and were measured, {row.clear} have a price "
        f"clearly above their worth.{part}"
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
    x, y = quantity("confidence", "confidence", form=".3~p"), quantity("accuracy", "accuracy", form=".3~p")
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
    tips = [{"field": "count", "title": "examples"}, tip(x), tip(y)]
    points = {
        "mark": {"type": "point", "filled": True, "color": BLUE, "size": 60, "opacity": 1},
        "encoding": {"x": x, "y": y, "tooltip": tips},
    }
    text = (
        "Test examples of like confidence: their mean confidence against the share that is right, with 95 % intervals. "
        "On the dashed line the probabilities mean what they say."
    )
    return Chart(
        "reliability",
        "How far its probabilities can be believed",
        text,
        layered(values, diagonal, interval, points, height=260),
    )


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
    y = {
        "field": "name",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "labelColor": TEXT, "labelLimit": 160, "labelOverlap": False},
    }
    x = quantity("probability", "posterior inclusion probability", form=".2~f")
    x["scale"] = {"domain": [0, 1]}
    ground = {"mark": {"type": "bar", "color": "var(--line)"}, "encoding": {"y": y, "x": {"datum": 1}}}
    bars = {
        "mark": {"type": "bar", "color": BLUE},
        "encoding": {"y": y, "x": x, "tooltip": [{"field": "name"}, tip(x)]},
    }
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
    spec = layered(values, ground, bars, whiskers, height=50 + 18 * len(order))
    return Chart("inclusion", "Posterior inclusion probabilities", text, spec)
