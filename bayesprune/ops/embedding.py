"""Tables of embeddings, whose columns are entries that go with what reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bayesprune.ops.call import Call
from bayesprune.ops.features import Features, Step
from bayesprune.ops.registry import Operation, Parts, register

ARGUMENTS = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


def _looked_up(call: Call) -> Step:
    """Rows of a table: its columns are the entries of what is given, along the last dimension."""
    table: Any = call.module
    if table.max_norm is not None:
        return call.wall(f"reaches {call.name}, which scales its rows by the norm of all of their entries")
    if not call.following.layers:
        return Step()
    size = table.embedding_dim
    value = torch.full((size,), torch.nan, dtype=torch.float64)
    return Step(Features(call.following.fresh(size), value, -1, call.rank(call.node)))


def _columns(table: nn.Module) -> Parts:
    return Parts({"weight": (None, "out")}, {"embedding_dim": "out"})


for _module, _more in ((nn.Embedding, ()), (nn.EmbeddingBag, ("mode", "include_last_offset"))):
    register(
        Operation(
            name=_module.__name__.lower().replace("bag", " bag"),
            modules=(_module,),
            entries=_looked_up,
            takes="anything",
            parts=_columns,
            memory="own",
            arguments=(*ARGUMENTS, *_more),
        )
    )
