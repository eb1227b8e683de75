"""Gates on the heads of attention: that of torch, and attention that is written out."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.conversion.masks import can_mask, joined_mask, of_each_head
from bayesprune.conversion.places import of_examples
from bayesprune.conversion.source import owner_of, put_behind
from bayesprune.graph import Analysis, Traced
from bayesprune.graph.tracing import TWICE
from bayesprune.layers import Gate, MultiheadAttention
from bayesprune.layers.rate import DropoutRate
from bayesprune.ops import operation_of

HEADS = -3
"""The dimension that heads lie along where they have one of their own, shape ``(B, ..., heads, T, features)``."""
GIVEN = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
"""What torch's attention is given, by place."""


def put_heads(traced: Traced, allowed: Callable[[str], bool], theta: float, refused: dict[str, str]) -> dict[Gate, str]:
    """Put a gate on the heads of every attention whose shapes are known; gives the gates, with the call of each.

    Where examples share a dimension with others, as windows of all of them do, one draw serves a whole batch.

    Torch's module becomes a `layers.MultiheadAttention` if its weights are not read.
    What `scaled_dot_product_attention` gives, or the product of a softmax and of values, is gated where it lies.

    Args:
        traced: The network.
        allowed: Whether the module of this name may get a gate.
        theta: Initial inclusion probability.
        refused: Calls that stay what they are, with the reason; torch's modules that have to are added.
    """
    gates: dict[Gate, str] = {}
    examples, same = of_examples(traced), _Same(traced)
    for node in list(traced.graph.nodes):
        if node.name in refused or not allowed(owner_of(node)):
            continue
        calls = _calls_of_torchs(traced, node)
        reasons = [reason for call in calls if (reason := _why_torchs(traced, call))]
        if reasons:
            refused.setdefault(str(node.target), f"it {reasons[0]}")
        elif calls:
            made = MultiheadAttention.of(traced.module(node), theta)  # type: ignore[arg-type]
            traced.net.set_submodule(str(node.target), made)
            for call in calls:
                _call_ours(traced, call, made.gate.size)
            places = {traced.shapes[call.all_input_nodes[0]][0 if made.batch_first else 1] for call in calls}
            made.gate.per_batch = places != {1}
            gates[made.gate] = node.name
        elif mixes_values(traced, node) and has_heads(traced, node):
            place = _values_of_groups(traced, node) or node
            shape = traced.shapes[place]
            gate = Gate(shape[HEADS], dim=len(shape) + HEADS, per_batch=place not in examples, theta=theta)
            gate = same.gate(place, gate)
            put_behind(traced, place, f"{owner_of(node)}.heads_gate".removeprefix("."), gate)
            gates.setdefault(gate, node.name)
    return gates


class _Same:
    """The gates of heads that go together, as those of attention do that is called more than once.

    Args:
        traced: The network, before gates of heads are put.
    """

    def __init__(self, traced: Traced):
        self._plan = Analysis(traced, {}) if traced.repeated else None
        self._gates: dict[tuple[int, int, bool], Gate] = {}

    def gate(self, place: fx.Node, gate: Gate) -> Gate:
        """The gate that heads have already, or else this one.

        Args:
            place: What it would multiply.
            gate: The gate.
        """
        features = None if self._plan is None else self._plan.known.get(place)
        if features is None or self._plan is None or len(features) != gate.size:
            return gate
        key = int(self._plan.one[features.ids[0]]), gate.dim, gate.per_batch
        return self._gates.setdefault(key, gate)


def has_heads(traced: Traced, node: fx.Node) -> bool:
    """Whether what attention gives has a dimension of several heads.

    Args:
        traced: The network.
        node: The call.
    """
    shape = traced.shapes.get(node, torch.Size())
    return len(shape) >= 4 and shape[HEADS] > 1


def _values_of_groups(traced: Traced, node: fx.Node) -> fx.Node | None:
    """Where a head of values stands for a group of queries: what attention gives of it is 0 where that is.

    Args:
        traced: The network.
        node: What attention gives of values.
    """
    rank, heads, features = traced.rank(node), traced.shapes[node][HEADS], traced.shapes[node][-1]
    place: Any = node.args[-1 if operation_of(node).kind == "product of matrices" else 2]
    while isinstance(place, fx.Node):
        shape = traced.shapes.get(place, torch.Size())
        if len(shape) == rank and shape[-1] == features and 1 < shape[HEADS] < heads and heads % shape[HEADS] == 0:
            return place
        own = operation_of(place, traced.module(place))
        place = place.args[0] if own.moves and shape else None
    return None


def _calls_of_torchs(traced: Traced, node: fx.Node) -> list[fx.Node]:
    """All calls of the module that a node calls, if that is torch's attention.

    Args:
        traced: The network.
        node: The node.
    """
    if type(traced.module(node)) is not nn.MultiheadAttention:
        return []
    return [each for each in traced.graph.nodes if each.op == "call_module" and each.target == node.target]


def _why_torchs(traced: Traced, node: fx.Node) -> str:
    """Why `layers.MultiheadAttention` cannot stand for a call of torch's; empty if it can.

    Args:
        traced: The network.
        node: The call.
    """
    module, given, fixed = traced.module(node), _given(node), traced.fixed.get(str(node.target))
    added = {"add_bias_kv": module.bias_k is not None, "add_zero_attn": module.add_zero_attn}  # type: ignore[union-attr]
    if any(added.values()):
        names = " and ".join(name for name, there in added.items() if there)
        return f"is a MultiheadAttention with {names}, a step of keys that no head can be cut of; build it without"
    if {traced.rank(given[name]) for name in GIVEN[:3]} != {3}:
        return "is a MultiheadAttention that is not known to be given (B, T, features); pass such an example_input="
    if not all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
        return "is a MultiheadAttention whose weights are read; read its outputs alone, as attention(...)[0]"
    masks = can_mask(traced, given.get("attn_mask"), 2, 3) and can_mask(traced, given.get("key_padding_mask"), 2)
    if not masks:
        return "is a MultiheadAttention whose masks are not tensors that a graph can add"
    return "" if fixed in (None, TWICE) else f"is a MultiheadAttention that {fixed}"


def _given(node: fx.Node) -> dict[str, Any]:
    """What a call of torch's attention is given, by name."""
    return {**dict(zip(GIVEN, node.args, strict=False)), **node.kwargs}


def _call_ours(traced: Traced, node: fx.Node, heads: int) -> None:
    """Let a call of torch's attention be one of `layers.MultiheadAttention`.

    Args:
        traced: The network.
        node: The call.
        heads: Number of heads.
    """
    given = _given(node)
    steps, padding = given.get("attn_mask"), given.get("key_padding_mask")
    node.args = tuple(given[name] for name in GIVEN[:3])
    if given.get("is_causal") and padding is None and not given.get("need_weights", True):
        node.kwargs = {"is_causal": True}  # torch then takes the mask's word for it
        return
    with traced.graph.inserting_before(node):
        if steps is not None and traced.rank(steps) == 3:
            steps = of_each_head(traced, steps, heads)
        mask = joined_mask(traced.graph, steps, padding)
    node.kwargs = {} if mask is None else {"mask": mask}


def write_attention(traced: Traced, node: fx.Node) -> bool:
    """Write torch's attention out if every call of it is one that `layers.MultiheadAttention` can stand for.

    Args:
        traced: The network.
        node: One of the calls; anything else stays as it is.

    Returns:
        Whether it was one.
    """
    calls = _calls_of_torchs(traced, node)
    if not calls or any(_why_torchs(traced, call) for call in calls):
        return False
    made = MultiheadAttention.of(traced.module(node))  # type: ignore[arg-type]
    heads, parts = made.gate.size, nn.Module()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        parts.add_module(name, made.get_submodule(name))
    if made.dropout:
        parts.add_module("dropout_rate", DropoutRate(made.dropout))
    traced.net.set_submodule(str(node.target), parts.train(made.training))
    for call in calls:
        _call_ours(traced, call, heads)
        _write_call(traced, call, made)
    return True


def _write_call(traced: Traced, node: fx.Node, made: MultiheadAttention) -> None:
    """Write one call out, with the scale of the size that heads have now.

    Args:
        traced: The network.
        node: The call.
        made: What it calls.
    """
    graph, place, before = traced.graph, str(node.target), node.prev
    with graph.inserting_before(node):
        given = [x if made.batch_first else graph.call_method("transpose", (x, 0, 1)) for x in node.args]
        mapped = [graph.call_module(f"{place}.{name}_proj", (x,)) for name, x in zip("qkv", given, strict=True)]
        apart = [graph.call_method("unflatten", (x, -1, (-1, made.head_dim))) for x in mapped]
        q, k, v = (graph.call_method("transpose", (x, 1, 2)) for x in apart)
        options = {"attn_mask": node.kwargs.get("mask"), "is_causal": node.kwargs.get("is_causal", False)}
        if made.dropout:
            options["dropout_p"] = graph.call_module(f"{place}.dropout_rate", ())
        mixed = graph.call_function(
            F.scaled_dot_product_attention, (q, k, v), {**options, "scale": made.head_dim**-0.5}
        )
        joined = graph.call_method("flatten", (graph.call_method("transpose", (mixed, 1, 2)), 2))
        result = graph.call_module(f"{place}.out_proj", (joined,))
        if not made.batch_first:
            result = graph.call_method("transpose", (result, 0, 1))
    stack = {**node.meta.get("nn_module_stack", {}), place: (place, nn.MultiheadAttention)}
    while before.next is not node:
        before = before.next
        before.meta["nn_module_stack"] = stack
    for user in list(node.users):
        user.replace_all_uses_with(result)
        graph.erase_node(user)
    graph.erase_node(node)


def gates_heads(traced: Traced, use: fx.Node) -> bool:
    """Whether a gate multiplies what attention makes of values, or the values of groups of queries.

    Args:
        traced: The network.
        use: Where the gate does.
    """
    if mixes_values(traced, use.all_input_nodes[0]):
        return True
    waiting = [use]
    while waiting:
        for user in waiting.pop().users:
            if mixes_values(traced, user):
                return True
            if operation_of(user, traced.module(user)).moves:
                waiting.append(user)
    return False


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
        if own.kind != "format" and not (own.pointwise and len(weights.all_input_nodes) == 1):
            break  # a format may be that of another tensor, which is read besides
        weights = weights.all_input_nodes[0]
    return False
