"""Sums, means and extrema over dimensions."""

from __future__ import annotations

from dataclasses import replace

import torch

from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import same, zeros_alone
from bayesprune.ops.features import Read, Step
from bayesprune.ops.registry import Operation, register


def _reduce(call: Call) -> Step:
    """Sum, mean or extremum over other dimensions, or a sum over the entries themselves."""
    x, dims, keep = call.x, call.option("dim", 1), call.option("keepdim", 2, False)
    total = call.node.target in TOTALS
    listed = [dims] if isinstance(dims, int) else list(dims) if isinstance(dims, (tuple, list)) else []
    if not listed or any(not isinstance(d, int) for d in listed) or x.layout != "plain":
        return call.wall(f"reaches {call.name}, which does not run over the space of maps alone")
    if x.rank is None:
        return call.wall(f"reaches {call.name} over dimensions {listed} of a tensor of unknown rank; {NEEDS_SHAPES}")
    gone, axis = {d % x.rank for d in listed}, x.axis % x.rank
    if 0 in gone or (axis in gone and not total):
        return call.wall(f"reaches {call.name}, which does not run over the space of maps alone")
    if axis in gone:
        must = ~x.unknown & (x.value != 0)
        return Step(reads=[Read(call.source, must, f"{call.name} adds it to what is left")])
    step = same(call.source, x, zeros_alone(x.value) if total else x.value)
    rank = x.rank if keep else x.rank - len(gone)
    step.out = replace(step.out, axis=axis if keep else axis - sum(d < axis for d in gone), rank=rank)  # type: ignore[type-var]
    return step


TOTALS: set[object] = {torch.sum, "sum"}

register(Operation(name="sum over dimensions", functions=(torch.sum,), methods=("sum",), entries=_reduce, files=True))
register(
    Operation(
        name="mean or extremum over dimensions",
        functions=(torch.mean, torch.amax, torch.amin),
        methods=("mean", "amax", "amin"),
        entries=_reduce,
        files=True,
    )
)
register(
    Operation(
        name="extremum over a dimension, with its places",
        functions=(torch.max, torch.min),
        methods=("max", "min"),
        entries=_reduce,
        kind="extremum",
        files=True,
    )
)
