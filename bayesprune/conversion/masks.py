"""Masks as torch's attention takes them, made into one as ``scaled_dot_product_attention`` takes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bayesprune.graph import Traced
from bayesprune.graph.shapes import DTYPE


def can_mask(traced: Traced, mask: Any, *ranks: int) -> bool:
    """Whether a mask is none at all, or a tensor of one of some ranks, of bool or of numbers.

    Args:
        traced: The network.
        mask: What the attention is given.
        ranks: Numbers of dimensions that it may have.
    """
    if not isinstance(mask, fx.Node):
        return mask is None
    kind = mask.meta.get(DTYPE)
    return traced.rank(mask) in ranks and kind is not None and (kind == torch.bool or kind.is_floating_point)


def of_each_head(traced: Traced, mask: fx.Node, heads: int) -> fx.Node:
    """A mask with a dimension for heads, shape ``(B, heads, T, S)``.

    Args:
        traced: The network, to whose graph a call is added at its present place.
        mask: Torch's ``attn_mask`` that has a part for each example and head, shape ``(B · heads, T, S)``.
        heads: Number of heads.
    """
    apart = traced.graph.call_method("unflatten", (mask, 0, (-1, heads)))
    apart.meta[DTYPE] = mask.meta[DTYPE]
    whole, *steps = traced.shapes[mask]
    traced.shapes[apart] = torch.Size([whole // heads, heads, *steps])
    return apart


def joined_mask(graph: fx.Graph, steps: fx.Node | None, padding: fx.Node | None) -> fx.Node | None:
    """One mask of two: whether a query attends to a key, bool; or numbers to be added, if one of the two is that.

    Args:
        graph: Where calls are put, at its present place.
        steps: Torch's ``attn_mask``, shape ``(T, S)`` or ``(B, heads, T, S)``: whether a query does *not* attend to a
            key, or numbers.
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
