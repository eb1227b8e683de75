"""Sizes, dtypes and devices that the forward pass reads of tensors."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from bayesprune.ops.call import Call, argument
from bayesprune.ops.features import Features, Step
from bayesprune.ops.registry import Operation, operation_of, register

TRANSPOSED = ("T", "H", "mT", "mH")
"""Attributes of a tensor that are tensors, with its entries in other places."""


def is_shape(node: fx.Node) -> bool:
    """Whether a call gives (part of) a shape, a dtype or a device, not a tensor."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.target is getattr:
        return node.args[1] not in TRANSPOSED
    if node.target is len:
        return True
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and is_shape(node.args[0])


def is_batch_size(argument: Any) -> bool:
    """Whether an argument is the first size of a tensor: ``x.size(0)`` or ``x.shape[0]``."""
    if not isinstance(argument, fx.Node) or not is_shape(argument):
        return False
    return argument.target is len or bool(argument.args[1:] == (0,))


def read_sizes(call: Call) -> Step:
    """What reads a shape may read sizes that removal leaves alone."""
    node, inputs = call.node, call.node.all_input_nodes
    free = not inputs or _keeps_shape_free(node) or _keeps_sizes(node, call.known[inputs[0]])
    free = free or bool(call.several and _only_moves(node, call.shapes) and call.several())
    return Step() if free else call.wall("has its shape read in forward")


def _only_moves(node: fx.Node, shapes: Mapping[fx.Node, torch.Size]) -> bool:
    """Whether sizes that a call reads are used by nothing but operations that move entries, which see if they fit.

    Args:
        node: The call that reads them.
        shapes: The shapes of all tensors.
    """
    waiting = [node]
    while waiting:
        for user in waiting.pop().users:
            number = user not in shapes and not any(source in shapes for source in user.all_input_nodes)
            if user.op == "call_function" and number:  # one of several sizes, or arithmetic on them
                waiting.append(user)
            elif not operation_of(user).moves:
                return False
    return True


def _keeps_shape_free(node: fx.Node) -> bool:
    """Whether a call that reads a shape works for any number of features: it reads the batch size, or no size."""
    if node.target in (operator.getitem, len, "dim"):
        return True
    if node.target is getattr and node.args[1] != "shape":
        return node.args[1] in ("dtype", "device", "ndim")
    return is_batch_size(node) or (
        len(node.args) + (node.target == "size") == 2 and all(map(is_batch_size, node.users))
    )


def _keeps_sizes(node: fx.Node, x: Features | None) -> bool:
    """Whether what is read of a shape are sizes that removal leaves alone.

    Args:
        node: The call that reads it.
        x: What is known of the tensor.
    """
    if x is None:
        return True
    if node.op == "call_method" and node.target == "size" and len(node.args) + len(node.kwargs) == 2:
        return not _reads_size(node, x)
    whole = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
    return bool(whole) and all(user.target is operator.getitem and not _reads_size(user, x) for user in node.users)


def _reads_size(node: fx.Node, x: Features) -> bool:
    """Whether ``node``, a part of the shape of a tensor with features ``x``, is a size that removal changes."""
    dims: Any = argument(node, "dim", 1)
    if isinstance(dims, int) and x.rank is None:
        return not (x.axis == 1 and dims >= 2)
    if isinstance(dims, slice) and x.rank is None:
        return not (x.axis == 1 and (dims.start or 0) >= 2 and dims.stop is None)
    every = range(x.rank or 0)
    try:
        picked = every[dims]
    except (IndexError, TypeError):
        return True
    return x.axis % len(every) in (picked if isinstance(picked, range) else [picked])


def _kind_of_sizes(node: fx.Node, module: Any) -> Any:
    """Several sizes, if none of them is asked for."""
    whole = node.target == "size" and len(node.args) + len(node.kwargs) == 1
    return ["number"] if whole else "number"


register(
    Operation(
        name="size",
        functions=(len,),
        methods=("size", "dim"),
        entries=read_sizes,
        takes="anything",
        gives=_kind_of_sizes,
        files=True,
    )
)
