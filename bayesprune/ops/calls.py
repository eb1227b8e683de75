"""Questions about single calls of a traced network: what they are, and what they rely on."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from bayesprune.ops import operations as ops


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one filter for each channel."""
    groups = getattr(layer, "groups", 1)
    return bool(groups > 1 and groups == layer.in_channels == layer.out_channels)


def folds_constants(layer: Any) -> bool:
    """Whether a constant input entry adds the same to every output position."""
    if isinstance(layer, ops.TRANSPOSED):
        return False
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return True
    return layer.padding != "same" and not any(layer.padding)


def name_of(node: fx.Node) -> str:
    """How the user wrote an operation."""
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def is_shape(node: fx.Node) -> bool:
    """Whether a call gives (part of) a shape, a dtype or a device, not a tensor."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.target is getattr:
        return True
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and is_shape(node.args[0])


def is_batch_size(argument: Any) -> bool:
    """Whether an argument is the first size of a tensor: ``x.size(0)`` or ``x.shape[0]``."""
    if not isinstance(argument, fx.Node) or not is_shape(argument):
        return False
    return bool(argument.args[1:] == (0,))


def keeps_shape_free(node: fx.Node) -> bool:
    """Whether a call that reads a shape works for any number of features: it reads the batch size, or no size."""
    if node.target is operator.getitem or node.target == "dim":
        return True
    if node.target is getattr and node.args[1] != "shape":
        return node.args[1] in ("dtype", "device", "ndim")
    return is_batch_size(node) or (
        len(node.args) + (node.target == "size") == 2 and all(map(is_batch_size, node.users))
    )


def is_flattening(node: fx.Node) -> bool:
    """Whether a call is ``x.view(x.size(0), -1)`` or one of its spellings."""
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return node.target in ops.RESHAPES and len(sizes) == 2 and is_batch_size(sizes[0]) and sizes[1:] == (-1,)


def calls(node: fx.Node, targets: set[object]) -> bool:
    """Whether ``node`` calls one of these functions or methods."""
    return node.op in ("call_function", "call_method") and node.target in targets
