"""Gates on features of keys, and of values, within heads of attention: all heads become smaller alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch.nn.functional as F
from torch import fx

from bayesprune.conversion.fused import split_fused
from bayesprune.conversion.heads import has_heads, mixes_values, write_attention
from bayesprune.conversion.operands import operands_of
from bayesprune.conversion.places import of_examples
from bayesprune.conversion.settled import settle_sizes
from bayesprune.conversion.source import owner_of, put_behind
from bayesprune.graph import Traced
from bayesprune.graph.tracing import fixed_modules
from bayesprune.layers import Gate

KEYS, VALUES = "keys", "values"
LEFT = "left"
"""Under what name ``meta`` of a converted network has the features that got no gate, their number and the reason."""


def written_apart(traced: Traced, allowed: Callable[[str], bool]) -> Traced:
    """The network with attention whose queries and keys, and whose values, may be cut to different sizes.

    Torch's module is written out. Attention that is told no scale is told the one that it has, and what one view makes
    of one layer for queries, keys and values is made of its parts.

    Args:
        traced: The network, of which shapes are known; changed in place.
        allowed: Whether the module of this name may get a gate.
    """
    if traced.example is None:
        return traced
    for node in list(traced.graph.nodes):
        if not allowed(owner_of(node)):
            continue
        if not write_attention(traced, node) and mixes_values(traced, node) and has_heads(traced, node):
            given = operands_of(traced, node)
            if given is not None:
                settle_sizes(traced, given)
            split_fused(traced, node)
            if node.target is F.scaled_dot_product_attention and given is not None:
                size, scale = traced.shapes[given.query][-1], node.kwargs.get("scale", None)
                node.kwargs = {**node.kwargs, "scale": size**-0.5 if scale is None else scale}
    again = Traced(traced.net, traced.graph, fixed_modules(traced.net, traced.graph))
    again.learn_shapes(traced.example)
    again.written = {node: node for node in traced.graph.nodes if node.op in ("call_function", "call_method")}
    return again


def put_sizes(
    traced: Traced, allowed: Callable[[str], bool], theta: float, refused: Collection[str]
) -> dict[Gate, str]:
    """Put gates on features within heads, of queries, whose keys go with them, and of values; gives what each is for.

    Args:
        traced: The network.
        allowed: Whether the module of this name may get a gate.
        theta: Initial inclusion probability.
        refused: What gets none.
    """
    gates: dict[Gate, str] = {}
    examples = of_examples(traced)
    for node in list(traced.graph.nodes):
        if not allowed(owner_of(node)) or not mixes_values(traced, node) or not has_heads(traced, node):
            continue
        for what, place, dim in _places(traced, node):
            name, size = f"{owner_of(node) or node.name}: {what}", traced.shapes[place][dim]
            if name in refused or size < 2:
                continue
            along = len(traced.shapes[place]) + dim
            gate = Gate(size, dim=along, per_batch=place not in examples, within=True, theta=theta)
            put_behind(traced, place, f"{owner_of(node)}.{what}_gate".removeprefix("."), gate)
            gates[gate] = name
    return gates


def _places(traced: Traced, node: fx.Node) -> Iterator[tuple[str, fx.Node, int]]:
    """What is gated, the tensor that is multiplied, and the dimension of features, counted from the last.

    Args:
        traced: The network.
        node: The call of attention, behind which a gate of heads may stand.
    """
    given = operands_of(traced, node)
    if given is not None:
        yield KEYS, given.query, given.dim
    yield VALUES, next((user for user in node.users if isinstance(traced.module(user), Gate)), node), -1
