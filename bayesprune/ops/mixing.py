"""Rules for operations on several tensors: sums and products, also with parameters and masks, and concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.ops import operations as ops
from bayesprune.ops.axes import NEEDS_SHAPES
from bayesprune.ops.calls import name_of
from bayesprune.ops.entrywise import Known, same
from bayesprune.ops.features import Features, Flow, Step, barrier

Shapes = dict[fx.Node, torch.Size]


@torch.no_grad()
def binary(node: fx.Node, known: Known, shapes: Shapes) -> Step:
    """A function of two tensors of equal features: their entries are tied, and 0 · anything is 0."""
    if len(node.all_input_nodes) != 2 or len(node.args) != 2 or any(not isinstance(a, fx.Node) for a in node.args):
        return barrier(node, f"reaches {name_of(node)} with arguments that are not two tensors")
    first, second = node.args
    a, b = known[first], known[second]  # type: ignore[index]
    if a is None or b is None:
        source, other = (second, first) if a is None else (first, second)
        return _with_unknown(node, source, other, known[source], shapes)  # type: ignore[arg-type, index]
    if "get_attr" in (first.op, second.op) and first.op != second.op:  # type: ignore[union-attr]
        source, other = (second, first) if first.op == "get_attr" else (first, second)  # type: ignore[union-attr]
        return _with_parameter(node, source, other, known)  # type: ignore[arg-type]
    if not _aligned(a, b):
        return barrier(
            node, f"is combined by {name_of(node)} with a tensor of which less is known, or of another shape"
        )
    target: Any = node.target
    if node.op == "call_method":
        value = getattr(a.value, target)(b.value, **node.kwargs)
    else:
        value = target(a.value.clone(), b.value, **node.kwargs)
    value = torch.where(a.unknown | b.unknown, torch.nan, value)
    if node.target in ops.PRODUCTS:
        value = torch.where((a.value == 0) | (b.value == 0), 0.0, value)
    every = torch.arange(len(a))
    out = replace(a if a.rank is not None else b, ids=a.ids, value=value)
    if out.rank is None and a.axis != b.axis:
        out = replace(out, rank=2)  # the first dimension and the last are one in a matrix alone
    return Step(out, flows=[Flow(i, every, every) for i in node.args], ties=[(a.ids, b.ids)])  # type: ignore[arg-type]


def _aligned(a: Features, b: Features) -> bool:
    """Whether two tensors have the same entries along the same axis."""
    same_axis = a.axis == b.axis or (a.along(b.axis) is not None and b.along(a.axis) is not None)
    same_layout = a.layout == b.layout and a.inner == b.inner
    return len(a) == len(b) and same_layout and same_axis and (a.rank == b.rank or None in (a.rank, b.rank))


def _combined(node: fx.Node, value: Tensor) -> Tensor | None:
    """What of constants is left in a product or a sum with something that is not known."""
    if node.target in ops.PRODUCTS:
        return torch.where(value == 0, value, torch.nan)
    return torch.full_like(value, torch.nan) if node.target in ops.SUMS else None


def _with_unknown(node: fx.Node, source: fx.Node, other: fx.Node, x: Features, shapes: Shapes) -> Step:
    """With a tensor of unknown features, which is one and the same for all entries."""
    value, name = _combined(node, x.value), name_of(node)
    if value is None or x.layout != "plain":
        return barrier(node, f"is combined by {name} with a tensor of which less is known, or of another shape")
    if other in shapes and len(shapes[other]) <= 1 and shapes[other].numel() == 1:
        return same(source, x, value)
    if x.rank is None or other not in shapes:
        return barrier(node, f"is combined by {name} with a tensor of which less is known; {NEEDS_SHAPES}")
    axis, shape = x.axis % x.rank - x.rank, shapes[other]
    if len(shape) > x.rank or (len(shape) >= -axis and shape[axis] != 1):
        return barrier(node, f"is combined by {name} with a tensor along its features, from which nothing is removed")
    return same(source, x, value)


def _with_parameter(node: fx.Node, source: fx.Node, other: fx.Node, known: Known) -> Step:
    """With a parameter or buffer that has one entry for each feature, which is cut with them."""
    x, p = known[source], known[other]
    assert x is not None and p is not None
    value, seen = _combined(node, x.value), x.along(p.axis)
    fits = seen is not None and len(p) % len(x) == 0 and (x.layout != "plain" or len(p) == len(x))
    if value is None or seen is None or not fits or (p.axis != -1 and x.rank is None):
        return barrier(
            node, f"is combined by {name_of(node)} with {other.target}, which does not run along its features"
        )
    index, every = seen.entries(len(p), node.name), torch.arange(len(p))
    out = Features(p.ids, value[index], seen.axis, seen.rank)
    return Step(out, flows=[Flow(source, index, every), Flow(other, every, every)], ties=[(p.ids, x.ids[index])])


def concatenate(node: fx.Node, known: Known, shapes: Shapes, ids: Any) -> Step:
    """Entries one after another, when tensors are joined along their feature axis.

    A tensor of unknown features brings entries that stay, if its shape is known.
    """
    nodes: Sequence[Any] = node.args[0] if node.args else node.kwargs.get("tensors", ())  # type: ignore[assignment]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    reason = f"reaches {name_of(node)}, which does not join known features along their dimension"
    if not isinstance(nodes, (tuple, list)) or not all(isinstance(n, fx.Node) for n in nodes):
        return barrier(node, reason)
    given = [known[n] for n in nodes]
    rank = next((p.rank for p in given if p is not None and p.rank is not None), None)
    if not isinstance(dim, int) or (dim % rank == 0 if rank else dim not in (1, -1)):
        return barrier(node, reason)
    flows, parts, holds, start = [], [], [], 0
    for n, x in zip(nodes, given, strict=True):
        part = None if x is None or x.layout != "plain" else x.along(dim)
        if x is None and n in shapes:
            size = shapes[n][dim]
            part = Features(ids(size), torch.full((size,), torch.nan, dtype=torch.float64), dim, rank)
            holds.append(part.ids)
        elif part is not None:
            flows.append(Flow(n, torch.arange(len(part)), torch.arange(start, start + len(part))))
        if part is None:
            return barrier(node, reason if x is not None else f"{reason}; {NEEDS_SHAPES}")
        parts.append(part)
        start += len(part)
    known_parts = [p for p, x in zip(parts, given, strict=True) if x is not None]
    rank = next((p.rank for p in known_parts if p.rank is not None), None)  # 2, if any was taken for a matrix
    ids_of_all, values = torch.cat([p.ids for p in parts]), torch.cat([p.value for p in parts])
    out = replace(known_parts[0], ids=ids_of_all, value=values, rank=rank)
    return Step(out, flows=flows, holds=holds)
