"""Operations that work in place become ones that do not, and what was read of the old memory is read of the new."""

from __future__ import annotations

from torch import fx

from bayesprune.errors import TraceError
from bayesprune.graph import Traced
from bayesprune.graph.memory import is_view, own_memory, written
from bayesprune.ops import name_of
from bayesprune.ops.sizes import is_shape


def work_out_of_place(traced: Traced) -> None:
    """Let no operation write over memory, so that gates and branches may stand anywhere.

    Args:
        traced: The network, changed in place.

    Raises:
        TraceError: for an operation that writes over a part of what is read again as a whole, or over a buffer.
    """
    place = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        target = written(traced, node)
        if target is None:
            continue
        for other in [each for each in _sharing(traced, target) - {target} if place[each] < place[node]]:
            if other.op == "get_attr" or any(place[user] > place[node] for user in other.users):
                raise TraceError(_refusal(node))
        if target.op == "get_attr":
            raise TraceError(_refusal(node))
        target.replace_all_uses_with(node, lambda user, now=place[node]: place[user] > now)  # type: ignore[misc]
    for node in list(traced.graph.nodes):
        own_memory(traced, node)


def _sharing(traced: Traced, node: fx.Node) -> set[fx.Node]:
    """Tensors that may lie in the same memory as one."""
    found, left = {node}, [node]
    while left:
        one = left.pop()
        near = [user for user in one.users if one in (_memory_of(traced, user), written(traced, user))]
        for other in (*near, _memory_of(traced, one), written(traced, one)):
            if other is not None and other not in found:
                found.add(other)
                left.append(other)
    return found


def _memory_of(traced: Traced, node: fx.Node) -> fx.Node | None:
    """The tensor that a call may give a part of, or in another shape."""
    viewed = is_view(traced, node) and not is_shape(node)
    return node.all_input_nodes[0] if viewed else None


def _refusal(node: fx.Node) -> str:
    inside = "".join(f" in {place!r}" for place, _ in [*node.meta.get("nn_module_stack", {}).values()][-1:])
    return (
        f"convert: {name_of(node)}{inside} works in place on a part of a tensor, or on a buffer, that is read again; "
        "write it so that it gives a new tensor"
    )
