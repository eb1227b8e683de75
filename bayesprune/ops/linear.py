"""Linear layers."""

from __future__ import annotations

from torch import nn

from bayesprune.layers import Linear, NormalLinear
from bayesprune.ops.call import Call
from bayesprune.ops.dense import dense, fold, is_normal, layer, weighted
from bayesprune.ops.features import Step
from bayesprune.ops.registry import Operation, Parts, register


@layer
def _linear(call: Call) -> Step:
    x = call.known[call.source]
    seen = None if x is None else x.along(-1)
    known = x if seen is None else seen
    rank = None if known is None else known.rank
    return dense(call, seen, (call.module.in_features, call.module.out_features), (-1, rank), "")


def _parts(module: nn.Module) -> Parts:
    return weighted(module, ("out", "in"), {"out_features": "out", "in_features": "in"})


register(
    Operation(
        name="linear",
        modules=(nn.Linear, Linear, NormalLinear),
        entries=_linear,
        takes="anything",
        parts=_parts,
        fold=fold,
        linear=True,
        memory="own",
        random=is_normal,
        arguments=("in_features", "out_features", "bias"),
    )
)
