"""A chart of a page, as Vega-Lite (Satyanarayan et al. 2017) takes it; colours are those of the page's style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BLUE, AMBER, GREY, TEXT = "var(--on)", "var(--undecided)", "var(--muted)", "var(--text)"
CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": GREY, "titleColor": GREY, "gridColor": "var(--line)", "domainColor": "var(--line)"},
        **{
            "tickColor": "var(--line)",
            "labelOverlap": True,
            "labelSeparation": 6,
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12,
        },
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False},
    "legend": {"labelColor": TEXT, "title": None, "orient": "top", "labelFontSize": 12, "symbolStrokeWidth": 2},
    "text": {"fill": GREY},
}
"""How all charts look."""
MOST_TICKS = 10
"""Below how many epochs each is on its axis; of more than that a few are."""


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


def layered(values: list[dict[str, Any]], *layer: Mapping[str, Any], height: int = 190) -> dict[str, Any]:
    """A chart as wide as its place, of layers that share their data.

    Args:
        values: The data.
        layer: The layers, lowest first.
        height: In pixels.
    """
    fit = {"type": "fit", "contains": "padding"}
    return {"data": {"values": values}, "width": "container", "height": height, "autosize": fit, "layer": list(layer)}


def line(color: str | None = None) -> dict[str, Any]:
    """The mark of a line whose points are there to be pointed at.

    Args:
        color: Its colour, unless data say it.
    """
    return {"type": "line", "strokeWidth": 2, "point": {"size": 90, "opacity": 0}} | ({"color": color} if color else {})


def epoch(last: int, first: int = 1) -> dict[str, Any]:
    """The axis of epochs, with whole numbers on it.

    Args:
        last: The last of them.
        first: The first.
    """
    axis = {"format": "d"} | ({"values": list(range(first, last + 1))} if last < MOST_TICKS else {"tickCount": 5})
    return {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": axis}


def quantity(field: str, title: str, *, form: str, zero: bool = True) -> dict[str, Any]:
    """An axis of numbers.

    Args:
        field: Their name in the data.
        title: What they are.
        form: How they are written.
        zero: Whether 0 is on it.
    """
    scale = {"zero": zero}
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "axis": {"format": form, "tickCount": 5},
        "scale": scale,
    }


def tip(channel: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a point of an axis.

    Args:
        channel: The axis.
    """
    form = ".2%" if channel["axis"]["format"].endswith("p") else ".4~g"
    return {"field": channel["field"], "type": "quantitative", "title": channel["title"], "format": form}


def tips(name: str, *, y: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is said of a point of a line over epochs.

    Args:
        name: What else the data say of it.
        y: The axis.
    """
    return [{"field": "epoch"}, {"field": name}, tip(y)]
