"""Pages that need no other file: their frame, style and script, in one place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from bayesprune.atomic import write_atomically


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill in a template, and write it atomically.

    Args:
        path: The file.
        template: Name of one of this folder's templates, or the text of one, which may extend them.
        values: What it is filled in with.

    Raises:
        FileError: if it cannot be written there.
    """
    environment = _environment()
    known = template.endswith(".j2") and "\n" not in template
    found = environment.get_template(template) if known else environment.from_string(template)
    write_atomically(path, found.render(**values).encode())


@cache
def vega() -> str:
    """The script of Vega, by which a page has ``vegaEmbed``; put together offline of what `vl_convert` holds."""
    from vl_convert import javascript_bundle  # slow to import

    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def compiled(spec: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What Vega draws for a chart that is written for Vega-Lite.

    Args:
        spec: The chart.
        config: How all charts look.
    """
    from vl_convert import vegalite_to_vega  # slow to import

    found: dict[str, Any] = vegalite_to_vega(dict(spec), config=dict(config))
    return found


def as_json(value: Any) -> str:
    """A value as JSON that can stand in a ``script`` element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def share(value: float | None) -> str:
    """A share in percent, to four digits at most."""
    return (
        "–"
        if value is None or math.isnan(value)
        else f"{100 * value:.2f} %"
        if value < 0.9995
        else f"{100 * value:.1f} %"
    )


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return "–" if value is None else f"{int(value):,}"


def setting(value: object) -> str:
    """The value of a setting: numbers to six digits, a dash for none."""
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def nats(value: float | None) -> str:
    """A number in three digits."""
    return "–" if value is None or math.isnan(value) else f"{value:.3g}".replace("-", "−")


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    for name, unit in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if value >= (2 * unit if unit > 1 else unit):
            return f"{value / unit:.3g} {name}"
    return f"{value / 1e-6:.3g} µs"


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_template),
    )
    environment.filters |= {"share": share, "count": count, "nats": nats, "seconds": seconds, "setting": setting}
    environment.filters["as_json"] = as_json
    return environment


def _template(name: str) -> str:
    return resources.files("bayesprune.reports").joinpath("templates").joinpath(name).read_text(encoding="utf-8")
