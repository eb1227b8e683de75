"""Gated linear units: one half of the entries times the sigmoid of the other."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.errors import TraceError
from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import same
from bayesprune.ops.features import Flow, Step
from bayesprune.ops.registry import Operation, register


def _glu(call: Call) -> Step | None:
    """Entry k of both halves go together; along another dimension, an entry is multiplied with itself elsewhere."""
    x, dim = call.x, call.option("dim", 1, -1)
    seen = x.along(dim) if x.layout == "plain" else None
    if seen is None and (x.layout != "plain" or x.rank is None):
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    if seen is None:
        return same(call.source, x, x.value * x.value.sigmoid()) if dim % x.rank else None  # type: ignore[operator]
    half, odd = divmod(len(seen), 2)
    if odd:
        raise TraceError(f"{call.name} halves its features, but what it is given has {len(seen)}")
    ids, (a, b) = seen.ids, seen.value.split(half)
    every = torch.arange(half)
    out = replace(seen, ids=ids[:half], value=torch.where(a == 0, 0.0, a * b.sigmoid()))
    flows = [Flow(call.source, every, every), Flow(call.source, every + half, every)]
    return Step(out, flows=flows, ties=[(ids[:half], ids[half:])])


register(
    Operation(
        name="glu", modules=(nn.GLU,), functions=(F.glu,), entries=_glu, memory="own", arguments=("dim",), files=True
    )
)
