"""Zeros that a forward pass makes, the first state of a loop say: as many of them go as of what they meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from bayesprune.ops.call import Call
from bayesprune.ops.entrywise import same
from bayesprune.ops.features import Features, Stay, Step
from bayesprune.ops.literals import Size, literals_of
from bayesprune.ops.registry import Operation, register

CHANNELS = 1
"""The dimension that entries of maps lie along; those of others lie along the last."""


def _zeros(call: Call) -> Step:
    """Each entry is 0, and stays or goes with those that it is added to, or read with, if its size can be rewritten."""
    node, sizes = call.node, literals_of(call.node)
    axis = CHANNELS if len(sizes) > 3 else len(sizes) - 1
    size = sizes[axis] if axis > 0 else None
    known = call.rank(node) == len(sizes) and node in call.written
    if not call.following.layers or not known or not isinstance(size, int) or size < 2:
        return Step()
    ids = call.following.fresh(size)

    def refit(stay: Stay) -> Mapping[fx.Node, Sequence[Size]]:
        return {node: [*sizes[:axis], int(stay(ids).sum()), *sizes[axis + 1 :]]}

    return Step(Features(ids, torch.zeros(size, dtype=torch.float64), axis, len(sizes)), refit=refit)


register(
    Operation(
        name="zeros",
        functions=(torch.zeros,),
        entries=_zeros,
        takes="anything",
        sizes=slice(0, None),
        memory="own",
        files=True,
    )
)
register(
    Operation(
        name="zeros of the size of another tensor",
        functions=(torch.zeros_like,),
        entries=lambda call: same(call.source, call.x, torch.zeros_like(call.x.value)),
        memory="own",
        files=True,
    )
)
