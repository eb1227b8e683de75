"""Which values of a forward pass lie in the same memory, so that what is written over one is read of the others.

For the examples that are followed it is seen. For others it may go by their number, as that of ``reshape`` does: what a
record calls a view counts as one as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef

from bayesprune.graph import Traced
from bayesprune.graph.memory import is_fresh, is_view, written
from bayesprune.ops.sizes import is_shape

MEMORY = "memory"
"""Under what name a node's ``meta`` has the memory that its values lie in, which it does not keep from being freed."""

ANY = torch.zeros(1, 1, dtype=torch.complex64)
"""A tensor that has all attributes that tensors have."""


def note_memory(node: fx.Node, values: Sequence[Any]) -> None:
    """Note of a call where its values lie.

    Args:
        node: The call.
        values: What it gives for examples.
    """
    found: set[StorageWeakRef | None] = set()

    def note(part: Any) -> None:
        if isinstance(part, Tensor):  # None stands for memory that is not known, which any tensor may share
            found.add(StorageWeakRef(part.untyped_storage()) if part.layout is torch.strided else None)

    fx.node.map_aggregate(list(values), note)
    node.meta[MEMORY] = found


def forget_memory(node: fx.Node) -> None:
    """Forget where the values of a call lay."""
    node.meta.pop(MEMORY, None)


def sharing(traced: Traced, node: fx.Node) -> set[fx.Node]:
    """Calls whose values may lie in the same memory as those of one, itself among them.

    Args:
        traced: The network, as far as it was followed.
        node: The call.
    """
    lying: dict[StorageWeakRef | None, list[fx.Node]] = {None: []}
    for each in traced.graph.nodes:
        for place in each.meta.get(MEMORY, ()):
            lying.setdefault(place, []).append(each)
    found, left = {node}, [node]
    while left:
        one = left.pop()
        near = [user for user in one.users if one is written(traced, user) or one in _viewed(traced, user)]
        near += [*_viewed(traced, one), written(traced, one) or one]
        near += [each for place in (None, *one.meta.get(MEMORY, ())) for each in lying[place]]
        left += set(near) - found
        found.update(near)
    return found


def _viewed(traced: Traced, node: fx.Node) -> list[fx.Node]:
    """The tensors that a call may give parts of, or in another shape: any, if nothing tells where its values lie.

    Args:
        traced: The network.
        node: The call.
    """
    if node.target is getattr:
        return node.all_input_nodes if isinstance(getattr(ANY, str(node.args[1]), None), Tensor) else []
    if node.op == "output" or is_shape(node):
        return []
    if is_view(traced, node):
        return node.all_input_nodes[:1]
    return [] if MEMORY in node.meta or is_fresh(traced, node) else node.all_input_nodes
