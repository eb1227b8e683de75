"""Which calls of a traced network are calls of given functions or methods."""

from __future__ import annotations

from torch import fx

from bayesprune.ops.call import name_of
from bayesprune.ops.convolution import folds_constants, is_depthwise
from bayesprune.ops.sizes import is_batch_size, is_shape

__all__ = ["calls", "folds_constants", "is_batch_size", "is_depthwise", "is_shape", "name_of"]


def calls(node: fx.Node, targets: set[object]) -> bool:
    """Whether ``node`` calls one of these functions or methods."""
    return node.op in ("call_function", "call_method") and node.target in targets
