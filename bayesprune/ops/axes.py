"""Rules for operations that move, merge or drop dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bayesprune.ops import operations as ops
from bayesprune.ops.calls import name_of
from bayesprune.ops.entrywise import same
from bayesprune.ops.features import Features, Read, Step, barrier

NEEDS_SHAPES = "pass example_input= (to BayesianNet, compact or check_gates), so that shapes are known"


def argument(node: fx.Node, name: str, place: int, default: Any = None) -> Any:
    """An argument of a function or method of one tensor, given by name or by place."""
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else default)


def moved(source: fx.Node, x: Features, axis: int, rank: int | None) -> Step:
    """Every entry stays what it is, along ``axis``."""
    step = same(source, x, x.value)
    step.out = replace(x, axis=axis, rank=rank)
    return step


def flatten(
    node: fx.Node, source: fx.Node, x: Features, start: Any, end: Any, shape: Sequence[int] | None = None
) -> Step:
    """Several dimensions into one: if the axis is one of them, every entry becomes r entries.

    Between the first and the last of them, ``shape``, that of ``source``, must be known.
    """
    if x.layout != "plain" or x.rank is None:
        if (start, end) != (1, -1):
            return barrier(node, f"reaches {name_of(node)}, which does not flatten all dimensions but the first")
        if x.layout != "plain":
            return same(source, x, x.value)
        if x.axis not in (1, -1):
            return barrier(node, f"has its features along dimension {x.axis}, and is flattened; {NEEDS_SHAPES}")
        step = same(source, x, x.value)
        step.out = replace(x, axis=1, rank=2, layout="blocks" if x.axis == 1 else "tiles")
        return step
    first, last, axis = start % x.rank, end % x.rank, x.axis % x.rank
    if first == 0 and last > 0:
        return barrier(node, f"reaches {name_of(node)}, which does not flatten all dimensions but the first")
    step = same(source, x, x.value)
    rank = x.rank - (last - first)
    if axis < first or first == last:
        step.out = replace(x, axis=axis, rank=rank)
    elif axis > last:
        step.out = replace(x, axis=axis - (last - first), rank=rank)
    elif axis == first:
        step.out = replace(x, axis=first, rank=rank, layout="blocks")
    elif axis == last:
        step.out = replace(x, axis=first, rank=rank, layout="tiles")
    elif shape is None:
        return barrier(node, f"has its features along dimension {x.axis}, and is flattened; {NEEDS_SHAPES}")
    else:
        inner = math.prod(shape[axis + 1 : last + 1])
        step.out = replace(x, axis=first, rank=rank, layout="between", inner=inner)
    return step


def flatten_dims(node: fx.Node) -> tuple[Any, Any]:
    """First and last dimension of a call of ``flatten``."""
    return argument(node, "start_dim", 1, 0), argument(node, "end_dim", 2, -1)


def rearrange(node: fx.Node, source: fx.Node, x: Features) -> Step | None:
    """Two dimensions change places, or all are put in another order."""
    if x.layout != "plain":
        return None
    if node.target in ops.TRANSPOSITIONS:
        swapped = argument(node, "dim0", 1), argument(node, "dim1", 2)
        if x.rank is None:
            return barrier(node, f"reaches {name_of(node)}; {NEEDS_SHAPES}")
        order = list(range(x.rank))
        a, b = (dim % x.rank for dim in swapped)
        order[a], order[b] = b, a
    else:
        given = argument(node, "dims", 1, ())
        listed = given if isinstance(given, (tuple, list)) else node.args[1:]
        dims = [dim for dim in listed if isinstance(dim, int)]
        if len(dims) != len(listed):
            return None
        order = [dim % len(dims) for dim in dims]
        x = replace(x, rank=len(order))
    return moved(source, x, order.index(x.axis % len(order)), len(order)) if order[0] == 0 else None


def reduce(node: fx.Node, source: fx.Node, x: Features) -> Step:
    """Sum, mean or extremum over other dimensions, or a sum over the entries themselves."""
    dims, keep = argument(node, "dim", 1), argument(node, "keepdim", 2, False)
    listed = [dims] if isinstance(dims, int) else list(dims) if isinstance(dims, (tuple, list)) else []
    name = name_of(node)
    if not listed or any(not isinstance(d, int) for d in listed) or x.layout != "plain":
        return barrier(node, f"reaches {name}, which does not run over the space of maps alone")
    if x.rank is None:
        return barrier(node, f"reaches {name} over dimensions {listed} of a tensor of unknown rank; {NEEDS_SHAPES}")
    gone, axis = {d % x.rank for d in listed}, x.axis % x.rank
    if 0 in gone or (axis in gone and node.target not in ops.TOTALS):
        return barrier(node, f"reaches {name}, which does not run over the space of maps alone")
    if axis in gone:
        must = ~x.unknown & (x.value != 0)
        return Step(reads=[Read(source, must, f"{name} adds it to what is left")])
    zeros = torch.where(x.value == 0, x.value, torch.nan)
    step = same(source, x, zeros if node.target in ops.TOTALS else x.value)
    rank = x.rank if keep else x.rank - len(gone)
    step.out = replace(step.out, axis=axis if keep else axis - sum(d < axis for d in gone), rank=rank)  # type: ignore[type-var]
    return step


def single(node: fx.Node, source: fx.Node, x: Features, shape: Sequence[int] | None) -> Step | None:
    """A dimension of size 1 is added or dropped."""
    dim = argument(node, "dim", 1)
    if not isinstance(dim, int) or x.layout != "plain":
        return None
    if x.rank is None or (shape is None and node.target in ops.SQUEEZES):
        return barrier(node, f"reaches {name_of(node)}; {NEEDS_SHAPES}")
    axis = x.axis % x.rank
    if node.target not in ops.SQUEEZES:
        place = dim % (x.rank + 1)
        return moved(source, x, axis + (place <= axis), x.rank + 1) if place else None
    place = dim % x.rank
    if place in (0, axis) or shape is None:
        return None
    dropped = shape[place] == 1
    return moved(source, x, axis - (dropped and place < axis), x.rank - dropped)


def indexed(node: fx.Node, source: fx.Node, x: Features) -> Step | None:
    """Dimensions of size 1 are added, and other dimensions than that of the features picked from: ``x[:, :, None]``."""
    keys: Any = node.args[1]
    keys = list(keys) if isinstance(keys, tuple) else [keys]
    plain = all(key is None or key is ... or isinstance(key, slice) or type(key) is int for key in keys)
    if x.layout != "plain" or not plain or source.target in ops.EXTREMA:
        return None
    if x.rank is None:
        return barrier(node, f"reaches {name_of(node)} of a tensor of unknown rank; {NEEDS_SHAPES}")
    missing = [slice(None)] * (x.rank - sum(key is not None and key is not ... for key in keys))
    place = keys.index(...) if ... in keys else len(keys)
    keys[place : place + 1] = missing
    axis = x.axis % x.rank
    taken = [i for i, key in enumerate(keys) if key is not None]  # the places of the dimensions that there were
    if taken[0] != 0 or any(keys[taken[dim]] != slice(None) for dim in (0, axis)):
        return None
    kept = [i for i, key in enumerate(keys) if type(key) is not int]
    return moved(source, x, kept.index(taken[axis]), len(kept))


def reads_size(node: fx.Node, x: Features) -> bool:
    """Whether ``node``, a part of the shape of a tensor with features ``x``, is a size that removal changes."""
    dims: Any = argument(node, "dim", 1)
    if isinstance(dims, int) and x.rank is None:
        return not (x.axis == 1 and dims >= 2)
    if isinstance(dims, slice) and x.rank is None:
        return not (x.axis == 1 and (dims.start or 0) >= 2 and dims.stop is None)
    every = range(x.rank or 0)
    try:
        picked = every[dims]
    except (IndexError, TypeError):
        return True
    return x.axis % len(every) in (picked if isinstance(picked, range) else [picked])


def takes_first(node: fx.Node, known: Mapping[fx.Node, Features | None]) -> bool:
    """Whether ``node`` takes the values of an extremum along a dimension, which come with indices."""
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.target not in ops.EXTREMA or known.get(source) is None:
        return False
    return node.args[1] in (0, "values")
