"""Arithmetic on Python numbers in a model file is bounded: sizes may be computed, not numbers of a billion digits."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.errors import CheckpointError

TENSOR, NUMBER = "tensor", "number"
LONGEST = 16
"""How many operations on numbers may follow one another: every one at most doubles the digits."""
UNARY = {operator.neg, operator.pos, operator.invert}
ARITHMETIC: set[object] = UNARY | {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.matmul, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.eq, operator.ne,
    operator.lt, operator.le, operator.gt, operator.ge, operator.and_, operator.or_,
}  # fmt: skip
LISTS: set[object] = {
    torch.chunk, torch.split, torch.tensor_split, torch.unbind, torch.topk, torch.sort,
    "chunk", "split", "tensor_split", "unbind", "topk", "sort",
}  # fmt: skip
EXTREMES: set[object] = {torch.max, torch.min, "max", "min"}
POOLS: dict[object, int] = {  # by how many arguments there are before return_indices
    F.max_pool1d: 6, F.max_pool2d: 6, F.max_pool3d: 6, F.adaptive_max_pool1d: 2, F.adaptive_max_pool2d: 2,
    F.adaptive_max_pool3d: 2,
}  # fmt: skip
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.MultiheadAttention)
ATTRIBUTES = {"shape": [NUMBER], "ndim": NUMBER, "mT": TENSOR}

Kind = Any
"""`TENSOR`, `NUMBER`, a list with the kind of its items, a tuple of kinds, or ``None`` for all else."""


def check_arithmetic(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    """Refuse operators on anything but tensors and on numbers of which it is known how large they can grow.

    Args:
        graph: The forward pass of a model file.
        modules: Its modules by name.

    Raises:
        CheckpointError: for powers of numbers, products of lists, long chains of arithmetic on numbers, and operators
            on what may be neither a tensor nor a number.
    """
    kinds: dict[fx.Node, Kind] = {}
    lengths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in ARITHMETIC:
            kinds[node] = _result(node, [_kind(a, kinds) for a in node.args])
            length = max((lengths.get(i, 0) for i in node.all_input_nodes), default=0) + 1
            lengths[node] = 0 if kinds[node] == TENSOR else length
        else:
            kinds[node] = _given(node, modules, kinds)
            lengths[node] = 0 if kinds[node] == TENSOR else max((lengths[i] for i in node.all_input_nodes), default=0)
        if lengths[node] > LONGEST:
            raise CheckpointError(f"more than {LONGEST} operations on numbers follow one another")


def _kind(value: Any, kinds: Mapping[fx.Node, Kind]) -> Kind:
    """What kind of value an argument is."""
    if isinstance(value, fx.Node):
        return kinds[value]
    if isinstance(value, (int, float)):
        return NUMBER
    return tuple(_kind(v, kinds) for v in value) if isinstance(value, (tuple, list)) else None


def _result(node: fx.Node, operands: list[Kind]) -> Kind:
    """What an operator gives, if it may be applied."""
    name = f"operator.{getattr(node.target, '__name__', node.target)}"
    if len(operands) != (1 if node.target in UNARY else 2) or node.kwargs:
        raise CheckpointError(f"{name} has {len(operands)} operands")
    if TENSOR in operands and all(kind in (TENSOR, NUMBER) for kind in operands):
        return TENSOR
    if all(kind == NUMBER for kind in operands) and node.target is not operator.pow:
        return NUMBER
    if node.target in (operator.add, operator.iadd) and all(_are_numbers(kind) for kind in operands):
        return [NUMBER]
    raise CheckpointError(f"{name} of what may be no tensor is not allowed in a model file")


def _are_numbers(kind: Kind) -> bool:
    return isinstance(kind, (list, tuple)) and all(k == NUMBER for k in kind)


def _given(node: fx.Node, modules: Mapping[str, nn.Module], kinds: Mapping[fx.Node, Kind]) -> Kind:
    """What kind of value anything but an operator gives."""
    if node.op == "placeholder":
        return _kind(node.args[0], kinds) if node.args else TENSOR
    if node.op == "call_module":
        return _of_module(modules[str(node.target)])
    if node.target is operator.getitem:
        return _item(_kind(node.args[0], kinds), node.args[1])
    if node.target is getattr:
        several = isinstance(kinds[node.all_input_nodes[0]], list)
        return TENSOR if several else ATTRIBUTES.get(str(node.args[1]))
    if node.target == "size":
        return NUMBER if len(node.args) + len(node.kwargs) > 1 else [NUMBER]
    if node.target in ("dim", "ndimension", "numel", len):
        return NUMBER
    return [TENSOR] if _gives_list(node, kinds) else TENSOR


def _gives_list(node: fx.Node, kinds: Mapping[fx.Node, Kind]) -> bool:
    """Whether a function or method gives several tensors."""
    if node.target in EXTREMES:
        others = [*node.args[1:], *node.kwargs.values()]
        return bool(others) and any(_kind(other, kinds) != TENSOR for other in others)
    if node.target in POOLS:
        return "return_indices" in node.kwargs or len(node.args) > POOLS[node.target]
    return node.target in LISTS or (node.target is torch.where and len(node.args) + len(node.kwargs) == 1)


def _of_module(module: nn.Module) -> Kind:
    if isinstance(module, RECURRENT):
        return (TENSOR, [TENSOR] if isinstance(module, nn.LSTM) else TENSOR)
    if isinstance(module, CELLS) or getattr(module, "return_indices", False):
        return [TENSOR]
    return TENSOR


def _item(kind: Kind, key: Any) -> Kind:
    """What an index or a slice takes out of a value."""
    if kind == TENSOR:
        return TENSOR
    if isinstance(kind, list):
        return kind if isinstance(key, slice) else kind[0]
    if isinstance(kind, tuple) and isinstance(key, (int, slice)):
        try:
            return kind[key]
        except (IndexError, TypeError):
            return None
    return None
