"""Which entries of a weight are smallest: what methods that mask weights have in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def whole_part(share: float, count: float) -> int:
    """⌊share · count⌋, by numbers that floats do not miss: 0.29 · 100 is 29, not 28.999….

    Args:
        share: From 0 to 1.
        count: Of how many.

    Examples:
        >>> whole_part(0.29, 100), int(0.29 * 100)
        (29, 28)
    """
    return int(share * count + 1e-9)


def smallest(values: Tensor, count: int) -> Tensor:
    """Which ``count`` of the values along the last dimension are smallest, bool; of equal ones the first.

    Args:
        values: Shape ``(..., n)``.
        count: How many, from 0 to n.

    Examples:
        >>> smallest(torch.tensor([0.1, 0.4, 0.1]), 1)
        tensor([ True, False, False])
    """
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    last = values.kthvalue(count, dim=-1, keepdim=True).values  # to sort takes several times as long
    below, level = values < last, values == last
    return below | (level & (level.cumsum(-1) <= count - below.sum(-1, keepdim=True)))


def smallest_weights(weight: Tensor, share: float, kept: Tensor | None = None) -> Tensor:
    """Which share of a weight's entries is smallest in size, bool, in its shape; one entry at least is not.

    Args:
        weight: The weight.
        share: Which share of the entries, from 0 to 1, rounded to whole entries.
        kept: The entries that are ranked, bool; those others are smaller than all of them. ``None`` for all.
    """
    sizes = weight.detach().abs()
    sizes = sizes if kept is None else sizes.masked_fill(~kept, -1.0)
    count = min(round(share * weight.numel()), weight.numel() - 1)
    return smallest(sizes.flatten(), count).view(weight.shape)


def smallest_overall(values: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Which share of the entries of all tensors together is smallest, bool, by name; never the largest of a tensor.

    Args:
        values: By name.
        share: Which share of all entries, from 0 to 1, rounded to whole entries.

    Examples:
        >>> smallest_overall({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.1, 0.2, 9.0])}, 0.4)["b"]
        tensor([ True,  True, False])
    """
    parts = [torch.zeros(0)]
    for value in values.values():
        flat = value.detach().flatten().float().cpu().clone()
        flat[flat.argmax() if len(flat) else []] = torch.inf
        parts.append(flat)
    flat = torch.cat(parts)
    count = min(round(share * len(flat)), len(flat) - len(values))
    found = smallest(flat, count).split([value.numel() for value in values.values()])
    return {name: part.view(values[name].shape) for name, part in zip(values, found, strict=True)}
