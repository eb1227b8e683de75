"""How deep a network is, counted in gates that are drawn."""

from __future__ import annotations

from torch import fx

from bayesprune.graph.tracing import Traced
from bayesprune.layers import Gate


def gates_in_a_row(traced: Traced) -> int:
    """The most gates with a draw for each example that a signal passes one behind the other.

    Each of them makes noise of a signal: with the share θ of its units it keeps, in layers whose units are much alike,
    θ of what the signal says, and 1 − θ becomes noise that all behind it see. Gates on whole branches do not count: a
    by-pass carries on what they switch off. One that a signal passes several times, with one draw, counts once.

    Args:
        traced: The network.

    Examples:
        >>> import torch
        >>> from bayesprune.graph import trace
        >>> from bayesprune.layers import Linear
        >>> net = torch.nn.Sequential(*(Linear(2, 2, gate="unit") for _ in range(3)))
        >>> gates_in_a_row(trace(net))
        3
    """
    passed: dict[fx.Node, frozenset[Gate]] = {}
    for node in traced.graph.nodes:
        gate = traced.gate(node)
        drawn = frozenset([gate]) if gate is not None and not gate.per_batch else frozenset()
        passed[node] = max((passed[source] for source in node.all_input_nodes), key=len, default=drawn) | drawn
    return max(map(len, passed.values()))
