"""Queries, keys and values that one layer gives, as equal parts of one view: each part gets a view of its own."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.conversion.operands import operands_of
from bayesprune.graph import Traced
from bayesprune.ops import operation_of
from bayesprune.ops.call import compute
from bayesprune.ops.sizes import is_shape

Changes = Mapping[tuple[fx.Node, int], int]
"""Other numbers for some of those that are written in calls, by the call and the place among its numbers."""


def split_fused(traced: Traced, node: fx.Node) -> None:
    """Let the parts of one tensor that attention takes for queries, keys and values be cut to different sizes.

    A view as ``(B, T, 3, heads, features)`` has as many features of all three. Where each part lies in one piece, the
    tensor is split first, and every part gets a view as ``(B, T, 1, heads, features)``.

    Args:
        traced: The network.
        node: The call of attention, see `operands_of`.
    """
    given = operands_of(traced, node)
    chains = [] if given is None else [_chain(traced, each) for each in given[:3]]
    chains = [chain for chain in chains if chain]
    bases = {_source(chain[-1]) for chain in chains}
    if len(bases) != 1 or len({chain[0] for chain in chains}) < 2:
        return
    (base,) = bases
    parts = [_part(traced, base, chain) for chain in chains]
    count = base_size = traced.shapes[base][-1]
    if any(part is None for part in parts) or len({length for _, length, _ in parts if parts}) != 1:  # type: ignore[misc]
        return
    _, length, _ = parts[0]  # type: ignore[misc]
    count = base_size // length
    with traced.graph.inserting_after(base):
        split = traced.graph.call_method("split", (base, [length] * count, -1))
    split.meta = {"nn_module_stack": chains[0][0].meta.get("nn_module_stack", {})}
    for chain, part in zip(chains, parts, strict=True):
        _rewrite(traced, split, chain, *part)  # type: ignore[misc]


def _source(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _chain(traced: Traced, operand: fx.Node) -> list[fx.Node]:
    """The calls that move entries, the last one first, of which the last picks a part; none if there are none.

    Args:
        traced: The network.
        operand: What attention is given, which may be made of the part by functions of single numbers.
    """
    node: Any = operand
    while isinstance(node, fx.Node) and not _picks(node):
        operation = operation_of(node, traced.module(node))
        if not (operation.moves or operation.pointwise or operation.kind in ("product", "format")):
            return []
        node = node.args[0]
    chain: list[fx.Node] = []
    while isinstance(node, fx.Node) and operation_of(node, traced.module(node)).moves and node.op != "call_module":
        chain.append(node)
        node = node.args[0]
    return chain if isinstance(node, fx.Node) and node in traced.shapes else []


def _picks(node: fx.Node) -> bool:
    return node.target is operator.getitem and not is_shape(node)


def _part(traced: Traced, base: fx.Node, chain: Sequence[fx.Node]) -> tuple[int, int, Changes] | None:
    """Which of the equal parts of a tensor a chain of calls picks, how long it is, and what picks it of itself.

    Args:
        traced: The network.
        base: The tensor, whose entries lie along its last dimension.
        chain: The calls, the last one first.
    """
    shape = traced.shapes[base]
    picked = run_moves(traced, base, chain, torch.arange(float(shape[-1])).expand(shape), {})
    if picked is None or not picked.numel():
        return None
    first, last = int(picked.min()), int(picked.max())
    length = last - first + 1
    if len(picked.unique()) != length or shape[-1] % length or first % length or length == shape[-1]:
        return None
    alone = torch.arange(float(first), float(first + length)).expand(*shape[:-1], length)
    for changes in _changes(chain, shape[-1] // length, first // length):
        found = run_moves(traced, base, chain, alone, changes)
        if found is not None and torch.equal(found, picked):
            return first // length, length, changes
    return None


def _changes(chain: Sequence[fx.Node], count: int, place: int) -> Iterator[Changes]:
    """What the numbers in calls may become where the parts of a tensor are gone but one.

    Args:
        chain: The calls.
        count: How many parts there were.
        place: Which of them is left.
    """
    numbers = [(node, at, number) for node in chain for at, number in enumerate(_numbers(node))]
    counts: list[Changes] = [{}, *({(node, at): 1} for node, at, number in numbers if number == count)]
    picks: list[Changes] = [{}, *({(node, at): 0} for node, at, number in numbers if _picks(node) and number == place)]
    for one in picks:
        for other in counts:
            yield {**one, **other}


def _numbers(node: fx.Node) -> list[int]:
    found: list[int] = []
    fx.node.map_aggregate(node.args, lambda a: found.append(a) if type(a) is int else None)  # type: ignore[arg-type]
    return found


def _changed(node: fx.Node, changes: Changes) -> tuple[Any, ...]:
    """The arguments of a call with other numbers.

    Args:
        node: The call.
        changes: The numbers.
    """
    places = iter(range(len(_numbers(node))))

    def new(own: Any) -> Any:
        return changes.get((node, next(places)), own) if type(own) is int else own

    args: Any = fx.node.map_aggregate(node.args, new)
    return tuple(args)


def run_moves(
    traced: Traced, base: fx.Node, chain: Sequence[fx.Node], given: Tensor, changes: Changes
) -> Tensor | None:
    """What a chain of calls gives, that move entries; ``None`` if it fails.

    Args:
        traced: The network.
        base: What the chain is given.
        chain: The calls, the last one first.
        given: The value of that.
        changes: Other numbers for some that are written in them.
    """
    values: dict[fx.Node, Any] = {base: given}

    def value(node: fx.Node) -> Any:
        if node not in values:
            known = node in traced.shapes
            values[node] = torch.zeros(()).expand(traced.shapes[node]) if known else compute(node, {}, value)
        return values[node]

    try:
        for node in reversed(chain):
            values[node] = compute(node, {}, value, _changed(node, changes))
    except Exception:  # sizes are computed as the user wrote it: with others that may raise anything
        return None
    found = values[chain[0]]
    return found if isinstance(found, Tensor) else None


def _rewrite(
    traced: Traced, split: fx.Node, chain: Sequence[fx.Node], place: int, length: int, changes: Changes
) -> None:
    """Let a part be made of its piece of the tensor.

    Args:
        traced: The network.
        split: What gives the pieces.
        chain: The calls that pick the part, the last one first.
        place: Which piece it is.
        length: How long that is.
        changes: Other numbers in these calls.
    """
    last, graph = chain[0], traced.graph
    with graph.inserting_before(last):
        made = graph.call_function(operator.getitem, (split, place))
        made.meta = {"nn_module_stack": split.meta["nn_module_stack"]}
        for node in reversed(chain):
            args = (made, *_changed(node, changes)[1:])
            made = graph.create_node(node.op, node.target, args, dict(node.kwargs))
            made.meta = dict(node.meta)
    last.replace_all_uses_with(made)
    for node in chain:
        if not node.users:
            graph.erase_node(node)
