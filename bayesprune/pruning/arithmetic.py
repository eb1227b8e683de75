"""Arithmetic on Python numbers in a model file is bounded: sizes may be computed, not numbers of a billion digits."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import fx, nn

from bayesprune.errors import CheckpointError
from bayesprune.ops import operation_of
from bayesprune.pruning.whitelist import ATTRIBUTES, FUNCTIONS

TENSOR, NUMBER = "tensor", "number"
LONGEST = 16
"""How many operations on numbers may follow one another: every one at most doubles the digits."""

OPERANDS = {  # of what Python applies to numbers and lists as to tensors
    function: len(signature(function).parameters)
    for function in FUNCTIONS.values()
    if getattr(operator, function.__name__, None) is function and function is not operator.getitem
}

Kind = Any
"""What `Operation.gives` may be, or ``None`` for all else."""


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
        if node.target in OPERANDS:
            kinds[node] = _result(node, [_kind(a, kinds) for a in node.args])
            length = max((lengths.get(i, 0) for i in node.all_input_nodes), default=0) + 1
            lengths[node] = 0 if kinds[node] == TENSOR else length
        else:
            kinds[node] = _given(node, modules, kinds)
            lengths[node] = 0 if kinds[node] == TENSOR else max((lengths[i] for i in node.all_input_nodes), default=0)
        if lengths[node] > LONGEST:
            raise CheckpointError(f"more than {LONGEST} operations on numbers follow one another")


def _kind(value: Any, kinds: Mapping[fx.Node, Kind]) -> Kind:
    """What kind of value an argument is.

    Args:
        value: The argument.
        kinds: What the calls before give.
    """
    if isinstance(value, fx.Node):
        return kinds[value]
    if isinstance(value, (int, float)):
        return NUMBER
    return tuple(_kind(v, kinds) for v in value) if isinstance(value, (tuple, list)) else None


def _result(node: fx.Node, operands: list[Kind]) -> Kind:
    """What an operator gives, if it may be applied.

    Args:
        node: Its call.
        operands: What kinds of values it is applied to.
    """
    target: Any = node.target
    name = f"operator.{target.__name__}"
    if len(operands) != OPERANDS[target] or node.kwargs:
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
    """What kind of value anything but an operator gives.

    Args:
        node: A call, an input, a parameter or a buffer.
        modules: The modules by name.
        kinds: What the calls before give.
    """
    if node.op == "placeholder":
        return _kind(node.args[0], kinds) if node.args else TENSOR
    if node.target is operator.getitem:
        return _item(_kind(node.args[0], kinds), node.args[1])
    if node.target is getattr:
        several = isinstance(kinds[node.all_input_nodes[0]], list)
        return TENSOR if several else ATTRIBUTES.get(str(node.args[1]))
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    operation = operation_of(node, module)
    if operation.kind == "extremum":  # over a dimension, unless it is of two tensors, or of all that one holds
        others = [*node.args[1:], *node.kwargs.values()]
        return [TENSOR] if any(_kind(other, kinds) != TENSOR for other in others) else TENSOR
    return operation.gives(node, module) if callable(operation.gives) else operation.gives


def _item(kind: Kind, key: Any) -> Kind:
    """What an index or a slice takes out of a value.

    Args:
        kind: The kind of the value.
        key: What it is indexed with.
    """
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
