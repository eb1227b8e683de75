"""Masks as torch's attention takes them, made into one as ``scaled_dot_product_attention`` takes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bayesprune.graph import Traced
from bayesprune.graph.shapes import DTYPE


def can_mask(traced: Traced, mask: Any, rank: int) -> bool:
    """Whether a mask is none at all, or a tensor of a rank, of bool or of numbers, for all heads alike.

    Args:
        traced: The network.
        mask: What the attention is given.
        rank: Number of dimensions that a mask for all heads has there.
    """
    if not isinstance(mask, fx.Node):
        return mask is None
    kind = mask.meta.get(DTYPE)
    return traced.rank(mask) == rank and kind is not None and (kind == torch.bool or kind.is_floating_point)


def joined_mask(graph: fx.Graph, steps: fx.Node | None, padding: fx.Node | None) -> fx.Node | None:
    """One mask of two: whether a query attends to a key, bool; or numbers to be added, if one of the two is that.

    Args:
        graph: Where calls are put, at its present place.
        steps: Torch's ``attn_mask``, shape ``(T, S)``: whether a query does *not* attend to a key, or numbers.
        padding: Its ``key_padding_mask``, shape ``(B, S)``: likewise for all queries of an example.
    """
    given = [] if steps is None else [steps]
    if padding is not None:
        row = graph.call_method("unsqueeze", (padding, 1))
        given.append(graph.call_method("unsqueeze", (row, 1)))
        given[-1].meta[DTYPE] = padding.meta[DTYPE]
    left_out = [mask for mask in given if mask.meta[DTYPE] == torch.bool]
    numbers = [mask for mask in given if mask not in left_out]
    if len(numbers) == 2:
        return graph.call_function(torch.add, tuple(numbers))
    if numbers:
        return graph.call_method("masked_fill", (*numbers, *left_out, float("-inf"))) if left_out else numbers[0]
    if len(left_out) == 2:
        left_out = [graph.call_function(torch.logical_or, tuple(left_out))]
    return graph.call_function(torch.logical_not, tuple(left_out)) if left_out else None
