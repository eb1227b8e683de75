"""Which values of a forward pass lie in the same memory, so that what is written over one is read of the others.

For the examples that are followed it is seen. For others it may go by their number, as that of ``reshape`` does: what a
record calls a view counts as one as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, strided
from torch.multiprocessing.reductions import StorageWeakRef

from bayesprune.graph import Traced
from bayesprune.graph.memory import is_view, written
from bayesprune.ops.sizes import is_shape

MEMORY = "memory"
"""Under what name a node's ``meta`` has the memory that its values lie in, which it does not keep from being freed."""


def note_memory(node: fx.Node, values: Sequence[Any]) -> None:
    """Note of a call where its values lie.

    Args:
        node: The call.
        values: What it gives for examples.
    """
    found: set[StorageWeakRef | None] = set()

    def note(part: Any) -> None:
        if isinstance(part, Tensor):  # None stands for memory that is not known, which any tensor may share
            found.add(StorageWeakRef(part.untyped_storage()) if part.layout is strided else None)

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
        near = [user for user in one.users if one in (_viewed(traced, user), written(traced, user))]
        near += [each for each in (_viewed(traced, one), written(traced, one)) if each is not None]
        near += [each for place in (None, *one.meta.get(MEMORY, ())) for each in lying[place]]
        left += set(near) - found
        found.update(near)
    return found


def _viewed(traced: Traced, node: fx.Node) -> fx.Node | None:
    """The tensor that a call may give a part of, or in another shape.

    Args:
        traced: The network.
        node: The call.
    """
    viewed = is_view(traced, node) and not is_shape(node)
    return next(iter(node.all_input_nodes), None) if viewed else None
