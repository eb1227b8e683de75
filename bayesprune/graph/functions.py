"""The rules of functions and methods: which of the rules for operations each of them is."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from bayesprune.ops import axes, mixing, spatial
from bayesprune.ops import entrywise as by
from bayesprune.ops import operations as ops
from bayesprune.ops.calls import is_flattening, is_shape, keeps_shape_free, name_of
from bayesprune.ops.entrywise import Known
from bayesprune.ops.features import Features, Step, barrier
from bayesprune.ops.mixing import Shapes


def function(node: fx.Node, known: Known, shapes: Shapes, fresh: Callable[[int], Tensor]) -> Step:
    """What a function or a method does to the entries of its inputs.

    Args:
        node: Its call.
        known: What is known of its inputs.
        shapes: The shapes of tensors, as far as known.
        fresh: Gives new ids.
    """
    inputs = node.all_input_nodes
    if axes.takes_first(node, known):
        return by.same(inputs[0], known[inputs[0]], known[inputs[0]].value)  # type: ignore[arg-type, union-attr]
    if is_shape(node):
        free = not inputs or keeps_shape_free(node) or _keeps_sizes(node, known[inputs[0]])
        return Step() if free else barrier(node, "has its shape read in forward")
    if all(known[i] is None for i in inputs):
        return Step()
    target: Any = node.target
    step = None
    if target in ops.CONCATENATIONS:
        step = mixing.concatenate(node, known, shapes, fresh)
    elif target in ops.BINARY_FUNCTIONS or (node.op == "call_method" and target in ops.BINARY_METHODS):
        several = len(inputs) > 1
        step = mixing.binary(node, known, shapes) if several else by.elementwise(node, known)
    elif node.args and isinstance(node.args[0], fx.Node) and all(map(is_shape, inputs[1:])):
        x = known[node.args[0]]
        step = None if x is None else _unary(node, node.args[0], x, known, shapes.get(node.args[0]))
    return step or barrier(node, f"reaches {name_of(node)}, through which a removed structure cannot be followed")


def _unary(node: fx.Node, source: fx.Node, x: Features, known: Known, shape: torch.Size | None) -> Step | None:
    """A function of one tensor, and of numbers or sizes, if it is a known one."""
    target: Any = node.target
    if is_flattening(node):
        return axes.flatten(node, source, x, 1, -1, shape)
    if target in ops.RESAMPLE_FUNCTIONS:
        return spatial.resample(node, source, x)
    if target in ops.RESHAPES:
        reason = f"reaches {name_of(node)} with sizes that are written out or computed in forward, not flattened"
        return barrier(node, reason)
    if len(node.all_input_nodes) > 1:
        return None
    if target is operator.getitem:
        return axes.indexed(node, source, x)
    if target in ops.FLATTENS:
        return axes.flatten(node, source, x, *axes.flatten_dims(node), shape)
    if target in ops.POINTWISE_FUNCTIONS or (node.op == "call_method" and target in ops.POINTWISE_METHODS):
        return by.elementwise(node, known)
    if target is F.pad:
        options = [axes.argument(node, name, i + 1) for i, name in enumerate(("pad", "mode", "value"))]
        return spatial.pad(node, source, x, options[0], options[1] or "constant", options[2])
    if target is F.pixel_shuffle:
        return spatial.pixel_shuffle(node, source, x, axes.argument(node, "upscale_factor", 1))
    if target is F.pixel_unshuffle:
        return spatial.pixel_unshuffle(node, source, x, axes.argument(node, "downscale_factor", 1))
    if target in ops.TRANSPOSITIONS | ops.PERMUTATIONS:
        return axes.rearrange(node, source, x)
    if target in ops.SQUEEZES | ops.UNSQUEEZES:
        return axes.single(node, source, x, shape)
    if target in ops.POOL_FUNCTIONS:
        return by.pool(node, source, x, ops.POOL_FUNCTIONS[target], by.pool_arguments(node))
    if target in ops.DROPOUT_FUNCTIONS:
        return by.dropout(source, x, 1.0)
    return axes.reduce(node, source, x) if target in ops.REDUCTIONS | ops.TOTALS | ops.EXTREMA else None


def _keeps_sizes(node: fx.Node, x: Features | None) -> bool:
    """Whether what is read of a shape are sizes that removal leaves alone."""
    if x is None:
        return True
    if node.op == "call_method" and node.target == "size" and len(node.args) + len(node.kwargs) == 2:
        return not axes.reads_size(node, x)
    whole = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
    return bool(whole) and all(user.target is operator.getitem and not axes.reads_size(user, x) for user in node.users)
