"""Gates on the heads of attention: that of torch, and attention that is written out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import Any

from torch import fx, nn

from bayesprune.conversion.places import of_examples
from bayesprune.conversion.source import owner_of, put_behind
from bayesprune.graph import Traced
from bayesprune.layers import Gate, MultiheadAttention
from bayesprune.ops import operation_of

HEADS = -3
"""The dimension that heads lie along where they have one of their own, shape ``(B, ..., heads, T, features)``."""
PLAIN = {"query", "key", "value", "need_weights", "average_attn_weights"}
"""What torch's attention may be given to be that of `layers.MultiheadAttention`."""


def put_heads(
    traced: Traced, allowed: Callable[[str], bool], theta: float, refused: Collection[str]
) -> dict[Gate, str]:
    """Put a gate on the heads of every attention whose shapes are known; gives the gates, with the call of each.

    Torch's module becomes a `layers.MultiheadAttention` if it is given no mask and its weights are not read. What
    `scaled_dot_product_attention` gives, or the product of a softmax and of values, is gated where it lies.

    Args:
        traced: The network.
        allowed: Whether the module of this name may get a gate.
        theta: Initial inclusion probability.
        refused: Calls that stay what they are.
    """
    gates = {}
    examples = of_examples(traced)
    for node in list(traced.graph.nodes):
        if node.name in refused or not allowed(owner_of(node)):
            continue
        if _is_plain(traced, node):
            made = MultiheadAttention.of(traced.module(node), theta)  # type: ignore[arg-type]
            traced.net.set_submodule(str(node.target), made)
            given = _given(node)
            node.args, node.kwargs = tuple(given[name] for name in ("query", "key", "value")), {}
            gates[made.gate] = node.name
        elif node in examples and mixes_values(traced, node) and _has_heads(traced, node):
            gate = Gate(traced.shapes[node][HEADS], dim=len(traced.shapes[node]) + HEADS, theta=theta)
            put_behind(traced, node, f"{owner_of(node)}.heads_gate".removeprefix("."), gate)
            gates[gate] = node.name
    return gates


def _has_heads(traced: Traced, node: fx.Node) -> bool:
    """Whether what attention gives has a dimension of several heads.

    Args:
        traced: The network.
        node: The call.
    """
    shape = traced.shapes.get(node, ())
    return len(shape) >= 4 and shape[HEADS] > 1


def _is_plain(traced: Traced, node: fx.Node) -> bool:
    """Whether a call is one of torch's attention that `layers.MultiheadAttention` can stand for.

    Args:
        traced: The network.
        node: The call.
    """
    module = traced.module(node)
    if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn:
        return False
    plain = all(name in PLAIN or value is None or value is False for name, value in _given(node).items())
    reads = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    ranks = {traced.rank(tensor) for tensor in node.all_input_nodes}
    return plain and reads and ranks == {3} and str(node.target) not in traced.fixed


def _given(node: fx.Node) -> dict[str, Any]:
    """What a call of torch's attention is given, by name."""
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def mixes_values(traced: Traced, node: fx.Node) -> bool:
    """Whether a call gives what attention makes of values: in one step, or as the last of those written out.

    Args:
        traced: The network.
        node: The call.
    """
    operation = operation_of(node)
    if operation.kind != "product of matrices":
        return operation.kind == "attention"
    weights = next(iter(node.all_input_nodes), None)
    while weights is not None:
        own = operation_of(weights, traced.module(weights))
        if own.kind == "softmax":
            return True
        if not own.pointwise or len(weights.all_input_nodes) != 1:
            break
        weights = weights.all_input_nodes[0]
    return False
