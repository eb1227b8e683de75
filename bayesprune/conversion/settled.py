"""Sizes of heads that forward computes with: the scale of attention stays that of the size that heads had."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import fx

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
    for tensor in dict.fromkeys([*_made_of(traced, given.query), *_made_of(traced, given.key)]):
        shape = traced.shapes[tensor]
        for node, dim in list(_sizes_read(tensor)):
            if dim % len(shape) == len(shape) - 1:
                _settle(traced, node, shape[-1])


def _made_of(traced: Traced, tensor: fx.Node) -> Iterator[fx.Node]:
    """A tensor, and those before it with the same features along the last dimension.

    Args:
        traced: The network.
        tensor: The tensor.
    """
    size = traced.shapes[tensor][-1]
    while tensor in traced.shapes and traced.shapes[tensor][-1:] == (size,):
        yield tensor
        operation = operation_of(tensor, traced.module(tensor))
        first = tensor.args[0] if tensor.args else None
        if not isinstance(first, fx.Node) or not (
            operation.moves or operation.pointwise or operation.kind == "product"
        ):
            break
        tensor = first


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
