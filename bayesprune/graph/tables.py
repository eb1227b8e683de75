"""Tensors of a network that its forward pass uses directly: along which dimension their entries lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.graph.tracing import Traced
from bayesprune.ops import Features, operation_of
from bayesprune.ops.call import argument, compute
from bayesprune.ops.sizes import is_shape

HEADS = -3
"""The dimension of a mask along which heads lie; behind it are those of queries and keys."""


def dimension_of(traced: Traced, node: fx.Node, known: Mapping[fx.Node, Features | None]) -> int | None:
    """The dimension of a tensor, counted from its last, whose entries are added to or multiply one entry each.

    They are followed through calls that move them, such as an index into a table of positions, and functions of single
    numbers.

    Args:
        traced: The network, of which shapes are known.
        node: What reads the tensor.
        known: What is known of other tensors.

    Returns:
        The dimension; ``None`` if there is none, or several and no other tensor tells which.
    """
    shape = traced.shapes[node]
    found = [dim for dim in range(-len(shape), 0) if shape[dim] > 1 and _Moved(traced, node, dim).meets(known)]
    return found[0] if len(found) == 1 else None


class _Moved:
    """The entries of a tensor along one dimension, numbered, and where calls take these numbers.

    Args:
        traced: The network.
        node: What reads the tensor.
        dim: The dimension, counted from the last.
    """

    def __init__(self, traced: Traced, node: fx.Node, dim: int):
        self.traced, shape = traced, traced.shapes[node]
        numbers = torch.arange(float(shape[dim])).view(-1, *[1] * (-1 - dim))
        self.values: dict[fx.Node, Any] = {node: numbers.expand(shape)}
        self.start, self.size = node, shape[dim]

    def meets(self, known: Mapping[fx.Node, Features | None]) -> bool:
        """Whether all that reads them adds or multiplies, each entry to what has at most one entry for it, or masks so.

        Args:
            known: What is known of other tensors.
        """
        waiting, met = [self.start], False
        while waiting:
            source = waiting.pop()
            for user in source.users:
                operation = operation_of(user, self.traced.module(user))
                masks = operation.kind == "attention" and argument(user, "attn_mask", 3) is source
                if operation.adds or operation.kind == "product" or masks:
                    met = self._fits(user, source, known, HEADS if masks else -1)
                    if not met:
                        return False
                elif not self._follow(user, source):
                    return False
                else:
                    waiting.append(user)
        return met

    def _fits(self, user: fx.Node, source: fx.Node, known: Mapping[fx.Node, Features | None], last: int) -> bool:
        """Whether the numbers lie along one dimension of a tensor, that of the entries of what it is combined with.

        Args:
            user: The sum or product, or the attention that it is a mask of.
            source: The tensor.
            known: What is known of other tensors.
            last: The last dimension that it may be.
        """
        value = self.values[source]
        places = [
            dim for dim in range(-value.dim(), 0) if not torch.equal(value.narrow(dim, 0, 1).expand_as(value), value)
        ]
        for other in user.all_input_nodes if len(places) == 1 else ():
            features = known.get(other)
            if other is not source and features is not None and features.layout == "plain":
                rank = self.traced.rank(other) or features.rank
                if rank is None or features.axis % rank - rank != places[0] or len(features) != self.size:
                    return False
        return len(places) == 1 and places[0] <= last

    def _follow(self, user: fx.Node, source: fx.Node) -> bool:
        """Whether a call moves the numbers; notes where they are then.

        Args:
            user: The call.
            source: What it is given of them.
        """
        operation = operation_of(user, self.traced.module(user))
        if operation.pointwise and len(user.all_input_nodes) == 1:
            self.values[user] = self.values[source]
        elif operation.kind == "filling" and user.args[0] is source and user in self.traced.shapes:
            self.values[user] = self.values[source].expand(self.traced.shapes[user])
        elif operation.moves or is_shape(user):
            modules = {user: module} if (module := self.traced.module(user)) is not None else {}
            try:
                self.values[user] = compute(user, modules, self._value)
            except Exception:  # sizes of an example that is not there
                return False
        else:
            return False
        return isinstance(self.values[user], Tensor)

    def _value(self, node: fx.Node) -> Any:
        """The value of what a call reads: of tensors, the shape alone, but for constants.

        Args:
            node: What gives it.
        """
        if node in self.values:
            return self.values[node]
        if node in self.traced.constants:
            return self.traced.constants[node]
        if node in self.traced.shapes:
            return torch.zeros(()).expand(self.traced.shapes[node])
        return compute(node, {}, self._value)
