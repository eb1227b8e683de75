"""What a traced network calls its modules with."""

from __future__ import annotations

from torch import fx

from bayesprune.graph.tracing import Traced


def sole_input(traced: Traced, node: fx.Node) -> fx.Node | None:
    """The tensor that a module is called with, if it is called with nothing else.

    Args:
        traced: The network.
        node: The call.
    """
    module = traced.module(node)
    if module is None or len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return None
    return node.args[0]
