"""What attention is made of: queries, keys and values, in one call or written out."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import fx

from bayesprune.graph import Traced
from bayesprune.ops import operation_of
from bayesprune.ops.call import argument

QUOTIENT = operator.truediv, torch.div, "div"
BETWEEN = "softmax", "filling", "format", "product", "sum", "difference"
"""What stands between the product of queries and keys and that of weights and values, besides functions of numbers."""


class Operands(NamedTuple):
    """What one attention is given.

    Attributes:
        query, key, value: The tensors.
        dim: The dimension of queries along which they are multiplied with keys and summed, counted from the last.
        key_dim: That of keys.
    """

    query: fx.Node
    key: fx.Node
    value: fx.Node
    dim: int
    key_dim: int


def operands_of(traced: Traced, node: fx.Node) -> Operands | None:
    """What attention is given, as far as this can be told.

    Args:
        traced: The network.
        node: The call that makes values into what attention gives, see `mixes_values`.
    """
    if operation_of(node).kind == "attention":
        given: list[Any] = [argument(node, name, place) for place, name in enumerate(("query", "key", "value"))]
        dims: tuple[int, int] | None = (-1, -1)
    else:
        weights, *values = node.all_input_nodes
        product = _product_before(traced, weights)
        if product is None:
            return None
        factors = [each for each in product.args if isinstance(each, fx.Node)]  # one tensor may be both
        given, dims = [*factors, *values], _summed_dims(product)
    known = all(isinstance(each, fx.Node) and each in traced.shapes for each in given)
    if dims is None or len(given) != 3 or not known:
        return None
    query, key, value = given
    return Operands(query, key, value, *dims)


def _product_before(traced: Traced, weights: fx.Node) -> fx.Node | None:
    """The product of queries and keys that weights of attention are made of.

    Args:
        traced: The network.
        weights: The weights.
    """
    waiting = [weights]
    while waiting:
        node = waiting.pop()
        operation = operation_of(node, traced.module(node))
        if operation.kind == "product of matrices":
            return node
        if operation.pointwise or operation.kind in BETWEEN or node.target in QUOTIENT:
            shape = traced.shapes.get(node, torch.Size())[-2:]
            same = [each for each in node.all_input_nodes if traced.shapes.get(each, torch.Size())[-2:] == shape]
            waiting += reversed(same)
    return None


def _summed_dims(product: fx.Node) -> tuple[int, int] | None:
    """The dimensions of its factors that a product of matrices sums over, counted from the last; none if not known.

    Args:
        product: The product.
    """
    equation = product.args[0]
    if not isinstance(equation, str):
        return (-1, -2) if operation_of(product).name == "matrix product" else None
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or "." in left:
        return None
    first, second = terms
    summed = [letter for letter in first if letter in second and letter not in out]
    if len(summed) != 1:
        return None
    return first.index(summed[0]) - len(first), second.index(summed[0]) - len(second)
