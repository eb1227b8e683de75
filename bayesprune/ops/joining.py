"""Concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bayesprune.ops.call import NEEDS_SHAPES, Call, argument
from bayesprune.ops.features import Features, Flow, Step
from bayesprune.ops.registry import Operation, register


def _concatenate(call: Call) -> Step:
    """Entries one after another, when tensors are joined along their feature axis.

    A tensor of unknown features brings entries that stay, if its shape is known.
    """
    node, known, shapes = call.node, call.known, call.shapes
    if all(known[i] is None for i in node.all_input_nodes):
        return Step()
    nodes: Sequence[Any] = node.args[0] if node.args else node.kwargs.get("tensors", ())  # type: ignore[assignment]
    dim = argument(node, "dim", 1, 0)
    reason = f"reaches {call.name}, which does not join known features along their dimension"
    if not isinstance(nodes, (tuple, list)) or not all(isinstance(n, fx.Node) for n in nodes):
        return call.wall(reason)
    given = [known[n] for n in nodes]
    rank = next((p.rank for p in given if p is not None and p.rank is not None), None)
    if not isinstance(dim, int) or (dim % rank == 0 if rank else dim not in (1, -1)):
        return call.wall(reason)
    beside = _beside(list(nodes), given, dim)
    if beside is not None:
        return beside
    flows, parts, holds, start = [], [], [], 0
    for n, x in zip(nodes, given, strict=True):
        part = None if x is None or x.layout != "plain" else x.along(dim)
        if x is None and n in shapes:
            size = shapes[n][dim]
            part = Features(call.following.fresh(size), torch.full((size,), torch.nan, dtype=torch.float64), dim, rank)
            holds.append(part.ids)
        elif part is not None:
            flows.append(Flow(n, torch.arange(len(part)), torch.arange(start, start + len(part))))
        if part is None:
            return call.wall(reason if x is not None else f"{reason}; {NEEDS_SHAPES}")
        parts.append(part)
        start += len(part)
    known_parts = [p for p, x in zip(parts, given, strict=True) if x is not None]
    rank = next((p.rank for p in known_parts if p.rank is not None), None)  # 2, if any was taken for a matrix
    ids_of_all, values = torch.cat([p.ids for p in parts]), torch.cat([p.value for p in parts])
    out = replace(known_parts[0], ids=ids_of_all, value=values, rank=rank)
    return Step(out, flows=flows, holds=holds)


def _beside(nodes: list[fx.Node], given: list[Features | None], dim: int) -> Step | None:
    """Tensors joined along another dimension than that of their entries, which go together; ``None`` if it is not so.

    Args:
        nodes: The tensors.
        given: What is known of them.
        dim: The dimension that they are joined along.
    """
    parts = [x for x in given if x is not None and x.layout == "plain" and x.rank is not None]
    places = {(len(x), x.rank, x.axis % x.rank) for x in parts if x.rank is not None}
    if len(parts) < len(given) or len(places) != 1:
        return None
    size, rank, axis = places.pop()
    if dim % rank == axis:
        return None
    values, every = torch.stack([x.value for x in parts]), torch.arange(size)
    value = torch.where((values == values[0]).all(0), values[0], torch.nan)
    ties = [(parts[0].ids, x.ids) for x in parts[1:]]
    return Step(replace(parts[0], value=value), flows=[Flow(node, every, every) for node in nodes], ties=ties)


register(
    Operation(
        name="concatenation",
        functions=(torch.cat, torch.concat, torch.concatenate),
        entries=_concatenate,
        takes="anything",
        moves=True,
        memory="own",
        files=True,
    )
)
