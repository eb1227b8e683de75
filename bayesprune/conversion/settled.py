"""Sizes of heads that forward computes with: the scale of attention stays that of the size that heads had."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from bayesprune.conversion.fused import run_moves
from bayesprune.conversion.operands import Operands
from bayesprune.graph import Traced
from bayesprune.ops import operation_of
from bayesprune.ops.sizes import is_shape


def settle_sizes(traced: Traced, given: Operands) -> None:
    """Let numbers that follow from the size of keys be what they are now, unless they tell the sizes of tensors.

    Args:
        traced: The network.
        given: What attention is given.
    """
    made_of = [*_made_of(traced, given.query, given.dim), *_made_of(traced, given.key, given.key_dim)]
    for tensor, place in dict.fromkeys(made_of):
        shape = traced.shapes[tensor]
        for node, dim in list(_sizes_read(tensor)):
            if dim % len(shape) == place:
                _settle(traced, node, shape[place])


def _made_of(traced: Traced, tensor: fx.Node, dim: int) -> Iterator[tuple[fx.Node, int]]:
    """A tensor, and those before it with the same features along one dimension, with the place of that.

    Args:
        traced: The network.
        tensor: The tensor.
        dim: The dimension of features, counted from the last.
    """
    size, place = traced.shapes[tensor][dim], len(traced.shapes[tensor]) + dim
    while True:
        yield tensor, place
        operation = operation_of(tensor, traced.module(tensor))
        first = tensor.args[0] if tensor.args else None
        if not isinstance(first, fx.Node) or first not in traced.shapes:
            return
        if operation.moves:
            before = _place_before(traced, tensor, first, place)
        elif operation.pointwise or operation.kind == "product":
            before = place - len(traced.shapes[tensor]) + len(traced.shapes[first])
        else:
            return
        if before is None or before < 0 or traced.shapes[first][before] != size:
            return
        tensor, place = first, before


def _place_before(traced: Traced, node: fx.Node, source: fx.Node, place: int) -> int | None:
    """The dimension of a tensor that becomes one of what a call makes of it, in the same order; ``None`` if none does.

    Args:
        traced: The network.
        node: The call, which moves entries.
        source: The tensor.
        place: The dimension of the result.
    """
    wanted = _counted(traced.shapes[node], place)
    for dim, size in enumerate(traced.shapes[source]):
        if size == traced.shapes[node][place]:
            found = run_moves(traced, source, [node], _counted(traced.shapes[source], dim), {})
            if found is not None and torch.equal(found, wanted):
                return dim
    return None


def _counted(shape: torch.Size, dim: int) -> Tensor:
    """A tensor that holds at every position the place along a dimension."""
    counted = torch.arange(float(shape[dim]))
    return counted.view(-1, *[1] * (len(shape) - 1 - dim)).expand(shape)


def _sizes_read(tensor: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """The calls that give a size of a tensor, with its dimension."""
    for user in tensor.users:
        if not is_shape(user):
            continue
        dims = [*user.args[1:], *user.kwargs.values()]
        if user.target == "size" and len(dims) == 1 and isinstance(dims[0], int):
            yield user, dims[0]
        for part in user.users:
            if part.target is operator.getitem and part.args[0] is user and isinstance(part.args[1], int):
                yield part, part.args[1]


def _settle(traced: Traced, node: fx.Node, value: float) -> None:
    """Write a number where a call is given it, but for calls that move entries, to which it is a size.

    Args:
        traced: The network.
        node: What gives the number.
        value: The number.
    """
    for user in list(node.users):
        if user in traced.shapes and operation_of(user).moves:
            continue
        user.args = fx.node.map_arg(user.args, lambda each: value if each is node else each)
        user.kwargs = fx.node.map_arg(user.kwargs, lambda each: value if each is node else each)
        if user.op == "call_function" and user not in traced.shapes and not user.all_input_nodes:
            _settle(traced, user, user.target(*user.args, **user.kwargs))  # type: ignore[operator]
            if not user.users:
                traced.graph.erase_node(user)
