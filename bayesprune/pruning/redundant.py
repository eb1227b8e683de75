"""Operations that change nothing: identities, and rectifiers of what is never negative."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.graph import Traced
from bayesprune.graph.calls import sole_input
from bayesprune.graph.memory import Memory, is_inplace
from bayesprune.ops import operations as ops
from bayesprune.ops.calls import calls

RECTIFIERS: set[object] = {F.relu, torch.relu, "relu", "relu_"}
NON_NEGATIVE_MODULES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax)
NON_NEGATIVE: set[object] = {
    *RECTIFIERS, F.relu6, F.sigmoid, F.hardsigmoid, F.softmax, torch.sigmoid, torch.softmax, torch.abs, torch.exp,
    torch.square, "sigmoid", "softmax", "abs", "exp", "square",
}  # fmt: skip
KEEPING_MODULES = (*ops.POOLS, *ops.DROPOUTS, nn.Flatten)  # no sign changes
KEEPING: set[object] = {
    *ops.POOL_FUNCTIONS, *ops.DROPOUT_FUNCTIONS, *ops.FLATTENS, *ops.RESHAPES, *ops.REDUCTIONS, *ops.CONCATENATIONS,
    torch.transpose, torch.index_select, operator.getitem, "transpose", "permute", "contiguous", "clone",
}  # fmt: skip
NON_NEGATIVE_SUMS: set[object] = (ops.SUMS - ops.DIFFERENCES) | ops.PRODUCTS  # of non-negative terms or factors


def drop_redundant(traced: Traced) -> None:
    """Take ``torch.nn.Identity`` and every ReLU of a tensor that is known to be non-negative out of the graph.

    Values and, but for the set of measure 0 where an activation has a kink, gradients stay.
    """
    for node in list(traced.graph.nodes):
        source = sole_input(traced, node)
        if source is not None and type(traced.module(node)) is nn.Identity:
            _drop(traced, node, source)
    memory = Memory(traced)
    known = non_negative(traced, memory)
    for node in reversed(list(traced.graph.nodes)):
        source = _rectified(traced, node)
        if source is None or source not in known:
            continue
        if is_inplace(traced, node):
            memory.forget(node)
        elif memory.written_after(node, node) or memory.written_after(node, source):
            continue  # what was a copy would be overwritten
        _drop(traced, node, source)


def _drop(traced: Traced, node: fx.Node, source: fx.Node) -> None:
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def _rectified(traced: Traced, node: fx.Node) -> fx.Node | None:
    """What ``node`` takes the positive part of, if it does that."""
    if type(traced.module(node)) is nn.ReLU:
        return sole_input(traced, node)
    if calls(node, RECTIFIERS) and node.args and isinstance(node.args[0], fx.Node):
        return node.args[0]
    return None


def non_negative(traced: Traced, memory: Memory) -> set[fx.Node]:
    """Tensors without a negative entry, in training and in eval mode, for as long as anything may read them."""
    known: set[fx.Node] = set()
    for node in traced.graph.nodes:
        positive = _always_non_negative(traced, node) or _stays_non_negative(traced, node, known)
        if positive and all(_always_non_negative(traced, write) for write in memory.written_after(node, node)):
            known.add(node)
    return known


def _always_non_negative(traced: Traced, node: fx.Node) -> bool:
    if node.op == "get_attr":
        tensor = operator.attrgetter(str(node.target))(traced.net)
        return isinstance(tensor, Tensor) and tensor.dtype == torch.bool
    return type(traced.module(node)) in NON_NEGATIVE_MODULES or calls(node, NON_NEGATIVE)


def _stays_non_negative(traced: Traced, node: fx.Node, known: set[fx.Node]) -> bool:
    """Whether ``node`` makes a non-negative tensor of non-negative ones."""
    inputs = node.all_input_nodes
    if not inputs or not known.issuperset(inputs):
        return False
    module: Any = traced.module(node)
    if module is not None:
        return type(module) in KEEPING_MODULES and getattr(module, "divisor_override", None) is None
    if node.target is F.pad:
        value: Any = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
        return value is None or (isinstance(value, (int, float)) and value >= 0)
    if calls(node, NON_NEGATIVE_SUMS):
        numbers: Any = [a for a in node.args if not isinstance(a, fx.Node)]
        return not node.kwargs and all(isinstance(number, (int, float)) and number >= 0 for number in numbers)
    return calls(node, KEEPING) and "divisor_override" not in node.kwargs and len(node.args) < 7
