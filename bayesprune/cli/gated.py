"""What a run says at its start of a network that is not the library's own: its gates, and what was left and why."""

from __future__ import annotations

from collections import Counter

from bayesprune.conversion.structures import Structures
from bayesprune.graph.coupling import NO_GATE

PLURALS = {"branch": "branches", "head": "heads", "size": "sizes of heads", "unit": "units"}
NAMED = 3
"""How many gates of a kind, and layers of a reason, are named."""


def said_of_gates(found: Structures) -> str:
    """What carries gates, and what was left and why, in one line that leaves out the outputs of the network.

    Args:
        found: The structures of the network.
    """
    sizes: Counter[str] = Counter()
    left: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    layers: dict[str, list[str]] = {}
    for row in found:
        if row.kind in PLURALS:
            sizes[row.kind] += row.size
            names.setdefault(row.kind, []).extend(row.gate.split(", "))
        elif not row.rules.startswith("is an output"):
            why = row.rules.removeprefix(NO_GATE).removeprefix("; ")
            left[why] += row.size
            layers.setdefault(why, []).extend(row.gate.split(", "))
    gates = (f"{size:,} {kind if size == 1 else PLURALS[kind]} ({_named(names[kind])})" for kind, size in sizes.items())
    line = f"gates: {', '.join(gates)}; they rule {found.share:.1%} of the multiply-adds"
    if not left:
        return line
    reasons = (f"{size:,} in {_named(layers[why])}{f' ({why})' if why else ''}" for why, size in left.items())
    return f"{line}. Left without a gate: {'; '.join(reasons)}. bp.structures(net, example_input=x) lists them all"


def _named(names: list[str]) -> str:
    """The first gates or layers by name, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
