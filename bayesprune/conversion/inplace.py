"""Operations that work in place become ones that do not, and what was read of the old memory is read of the new."""

from __future__ import annotations

import torch
from torch import fx

from bayesprune.conversion.modes import ALONE, UNSEEN, passes_gradient_by
from bayesprune.conversion.sharing import forget_memory, sharing
from bayesprune.errors import TraceError
from bayesprune.graph import Traced
from bayesprune.graph.memory import own_memory, written
from bayesprune.graph.shapes import DTYPE
from bayesprune.ops import name_of


def work_out_of_place(traced: Traced) -> None:
    """Let no operation write over memory, so that gates and branches may stand anywhere.

    Args:
        traced: The network, changed in place.

    Raises:
        TraceError: for an operation that writes over a part of what is read again as a whole, or over a buffer, or
            past the gradient of what it writes over.
    """
    place = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        target = written(traced, node)
        if target is None:
            continue
        for other in [each for each in sharing(traced, target) - {target} if place[each] < place[node]]:
            if other.op == "get_attr" or any(place[user] > place[node] for user in other.users):
                raise TraceError(_refusal(node))
        if target.op == "get_attr":
            raise TraceError(_refusal(node))
        if passes_gradient_by(target, node.meta.get(ALONE, False), target.meta.get(DTYPE, torch.float32)):
            raise TraceError(f"convert: {name_of(node)} works in place {UNSEEN}; let it give a new tensor")
        target.replace_all_uses_with(node, lambda user, now=place[node]: place[user] > now)  # type: ignore[misc]
    for node in list(traced.graph.nodes):
        own_memory(traced, node)
        forget_memory(node)


def _refusal(node: fx.Node) -> str:
    inside = "".join(f" in {place!r}" for place, _ in [*node.meta.get("nn_module_stack", {}).values()][-1:])
    return (
        f"convert: {name_of(node)}{inside} works in place on a part of a tensor, or on a buffer, that is read again; "
        "write it so that it gives a new tensor"
    )
