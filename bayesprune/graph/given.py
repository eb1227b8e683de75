"""What the placeholders of a graph stand for in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx

from bayesprune.data.inputs import Inputs, as_call


def given_inputs(nodes: Iterable[fx.Node], x: Inputs) -> dict[fx.Node, Any]:
    """The inputs of a forward pass that is given ``x`` alone: the others have their defaults.

    Args:
        nodes: The nodes of the pass.
        x: What it is given.
    """
    places = [node for node in nodes if node.op == "placeholder"]
    args, kwargs = as_call(x)
    given: dict[fx.Node, Any] = dict(zip(places, args, strict=False))
    for node in places[len(args) :]:
        given[node] = kwargs[str(node.target)] if node.target in kwargs else node.args[0]
    return given
