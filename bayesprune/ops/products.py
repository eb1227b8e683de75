"""Matrix products and attention: dimensions of examples and heads carry entries through, each to itself."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import same, zeros_alone
from bayesprune.ops.features import Features, Flow, Read, Step
from bayesprune.ops.normalisation import STATISTICS
from bayesprune.ops.registry import Operation, register

NOTHING, ELSEWHERE = 1, 0
"""In the place of a dimension: that no entries are known, or that they lie in no dimension alone."""


def _place(call: Call, node: fx.Node) -> int:
    """The dimension that the entries of a tensor lie along, counted from the last: before -2 are heads and the like."""
    x, rank = call.known[node], len(call.shapes[node])
    return NOTHING if x is None else x.axis % rank - rank if x.layout == "plain" else ELSEWHERE


def _has(call: Call, node: fx.Node, place: int) -> bool:
    """Whether a tensor has several entries along a dimension, counted from the last."""
    shape = call.shapes[node]
    return len(shape) >= -place and shape[place] != 1


def together(call: Call, nodes: list[fx.Node], place: int, value: Tensor) -> Step:
    """Every entry of the result is made of the same entry of some tensors, which go together.

    Args:
        call: The call.
        nodes: The tensors.
        place: Where their entries lie, and those of the result, counted from the last.
        value: The constants that are left.
    """
    parts = [call.known[node] for node in nodes]
    ids = [x.ids for x in parts if x is not None]
    every, rank = torch.arange(len(ids[0])), len(call.shapes[call.node])
    out = Features(ids[0], value, rank + place, rank)
    return Step(out, [Flow(node, every, every) for node in nodes], ties=[(ids[0], other) for other in ids[1:]])


def if_known(rule: Callable[[Call], Step]) -> Callable[[Call], Step]:
    """The rule of a call of several tensors, if anything is known of one of them."""
    return lambda call: Step() if all(call.known[i] is None for i in call.node.all_input_nodes) else rule(call)


def _matmul(call: Call) -> Step:
    """A dimension of both that is no matrix's, what is summed over, or rows or columns of one; the other then stays."""
    factors = call.node.args
    if len(factors) != 2 or not all(isinstance(n, fx.Node) and n in call.shapes for n in factors):
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    a, b = call.node.args
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    if a is b or call.node not in call.shapes or min(len(call.shapes[a]), len(call.shapes[b])) < 2:
        return call.wall()
    place, other, x, y = _place(call, a), _place(call, b), call.known[a], call.known[b]
    if x is not None and y is not None and place == other <= -3 and len(x) == len(y):
        return together(call, [a, b], place, torch.where((x.value == 0) | (y.value == 0), 0.0, torch.nan))
    if x is not None and y is not None and (place, other) == (-1, -2) and len(x) == len(y):
        return summed(call, {a: x, b: y})
    sides: list[tuple[int, fx.Node, list[fx.Node]]] = []
    if x is not None and (place == -2 or (place <= -3 and not _has(call, b, place))):
        sides.append((len(x), a, [b]))
    if y is not None and (other == -1 or (other <= -3 and not _has(call, a, other))):
        sides.append((len(y), b, [a]))
    if not sides:
        return call.wall()
    _, node, others = max(sides, key=lambda side: side[0])
    return alone(call, node, _place(call, node), others)


def alone(call: Call, node: fx.Node, place: int, others: list[fx.Node]) -> Step:
    """Entries of one tensor are those of the result, and all of others stay.

    Args:
        call: The call.
        node: The tensor.
        place: Where they lie in the result, counted from the last.
        others: The others.
    """
    step = together(call, [node], place, zeros_alone(call.known[node].value))  # type: ignore[union-attr]
    step.pins = [other for other in others if call.known[other] is not None]
    step.reason = f"is multiplied by {call.name} with entries along another dimension" if step.pins else ""
    return step


def summed(call: Call, given: dict[fx.Node, Features]) -> Step:
    """Tensors whose entries go together are multiplied and summed over.

    Args:
        call: The call.
        given: The entries of each tensor.
    """
    first, *others = given.values()
    zero = torch.stack([x.value == 0 for x in given.values()]).any(0)
    reason = f"{call.name} adds it to what is left"
    reads = [Read(node, ~x.unknown & ~zero, reason, ~zero) for node, x in given.items()]
    return Step(reads=reads, ties=[(first.ids, x.ids) for x in others])


def _attention(call: Call) -> Step:
    """Heads of queries, keys and values go together, and so do features of queries and keys; those of values do not."""
    given = [call.option(name, place) for place, name in enumerate(("query", "key", "value"))]
    tensors = [call.node, *given, call.option("attn_mask", 3)]
    if any(node not in call.shapes for node in tensors if isinstance(node, fx.Node)):
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    if not all(isinstance(node, fx.Node) for node in given):
        return call.wall()
    query, key, value = given
    places, x, mask = [_place(call, node) for node in given], call.known[value], call.option("attn_mask", 3)
    head, masks = places[2], [mask] if isinstance(mask, fx.Node) and call.known[mask] is not None else []
    if -1 in places:
        return _of_features(call, given, masks)
    if masks and (head > -3 or _place(call, masks[0]) != head):
        return call.wall()
    if x is not None and head <= -3 and places == [head] * 3:
        masked = not masks and isinstance(mask, fx.Node) and _has(call, mask, head)
        parts = [part for part in map(call.known.get, [*given, *masks]) if part is not None]
        if not masked and len({len(part) for part in parts}) == 1:
            return together(call, [value, query, key, *masks], head, zeros_alone(x.value))
        if masks:
            return call.wall()
        if not masked and len(parts[1]) == len(x) and call.option("enable_gqa", 7):
            return _grouped(call, given)
    return call.wall()


def _of_features(call: Call, given: list[fx.Node], masks: list[fx.Node]) -> Step:
    """Features of queries and keys are multiplied and summed over, if their number is not part of the result.

    Args:
        call: The call.
        given: Queries, keys and values.
        masks: A mask that has entries, along another dimension.
    """
    query, key, value = given
    q, k, v = (call.known[node] for node in given)
    if (v is not None and _place(call, value) != -1) or call.shapes[query][-1] != call.shapes[key][-1]:
        return call.wall()
    summing = q is not None and k is not None and _place(call, query) == _place(call, key) == -1
    told = call.option("scale", 6) is not None
    step = summed(call, {query: q, key: k}) if summing and told else Step()  # type: ignore[dict-item]
    left = masks + ([] if summing and told else [node for node in given[:2] if call.known[node] is not None])
    if v is not None:
        values = alone(call, value, -1, left)
        step.out, step.flows = values.out, values.flows
    step.pins = left
    if left:
        size = f"is divided by the root of its size by {call.name}, which is told no scale"
        step.reason = (
            size if summing and not told else f"is multiplied by {call.name} with entries along another dimension"
        )
    return step


def _grouped(call: Call, given: list[fx.Node]) -> Step:
    """Groups of queries, each with a head of keys and values of its own: all of a group go together.

    Args:
        call: The call.
        given: Queries, keys and values.
    """
    q, k, v = (call.known[node] for node in given)
    assert q is not None and k is not None and v is not None
    every = torch.arange(len(q))
    group = every // (len(q) // len(v))
    out = Features(q.ids, zeros_alone(v.value[group]), q.axis, q.rank)
    flows = [Flow(given[0], every, every), Flow(given[1], group, every), Flow(given[2], group, every)]
    return Step(out, flows, ties=[(q.ids, k.ids[group]), (q.ids, v.ids[group])])


def _softmax(call: Call) -> Step | None:
    """Entries that it does not run along stay apart, but what is constant in each becomes something else."""
    x, dim = call.x, call.option("dim", 1)
    if x.rank is None or x.layout != "plain" or not isinstance(dim, int) or (x.axis - dim) % x.rank == 0:
        return None
    return same(call.source, x, torch.full_like(x.value, torch.nan))


def _normalize(call: Call) -> Step | None:
    """Entries that the norm does not run along stay apart, and zeros zeros."""
    x, dim = call.x, call.option("dim", 2, 1)
    if x.rank is None or x.layout != "plain" or not isinstance(dim, int) or (x.axis - dim) % x.rank == 0:
        return None
    return same(call.source, x, zeros_alone(x.value))


def _masked_fill(call: Call) -> Step:
    """Another value in some places, which are the same for all entries."""
    node, known, mask = call.node, call.known, call.option("mask", 1)
    source: Any = node.args[0]
    x = known[source]
    if all(known[i] is None for i in node.all_input_nodes):
        return Step()
    if x is None or not isinstance(mask, fx.Node) or mask not in call.shapes or known[mask] is not None:
        return call.wall()
    place = _place(call, source) if source in call.shapes else None
    if place is None or place >= 0 or _has(call, mask, place) or isinstance(call.option("value", 2), fx.Node):
        return call.wall()
    kept = call.option("value", 2) == 0
    return same(source, x, zeros_alone(x.value) if kept else torch.full_like(x.value, torch.nan))


register(
    Operation(
        name="matrix product",
        kind="product of matrices",
        functions=(operator.matmul, torch.matmul, torch.bmm),
        methods=("matmul", "bmm"),
        entries=if_known(_matmul),
        takes="anything",
        memory="own",
        files=True,
    )
)
register(
    Operation(
        name="attention",
        kind="attention",
        functions=(F.scaled_dot_product_attention,),
        entries=if_known(_attention),
        takes="anything",
        memory="own",
        files=True,
    )
)
register(
    Operation(
        name="softmax over other dimensions",
        kind="softmax",
        modules=(nn.Softmax,),
        functions=(F.softmax, torch.softmax),
        methods=("softmax",),
        entries=_softmax,
        wall=STATISTICS,
        memory="own",
        arguments=("dim",),
        files=True,
    )
)
register(
    Operation(
        name="division by a norm over other dimensions",
        functions=(F.normalize,),
        entries=_normalize,
        wall=STATISTICS,
        memory="own",
        files=True,
    )
)
register(
    Operation(
        name="another value where a mask is",
        kind="filling",
        functions=(torch.masked_fill,),
        methods=("masked_fill",),
        entries=_masked_fill,
        takes="anything",
        memory="own",
        files=True,
    )
)
