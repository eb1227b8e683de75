"""Which physical entries go together, from pairs that do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(size: int, ties: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """For each id the smallest id that is tied to it, directly or through others, shape ``(size,)``.

    Args:
        size: How many ids there are.
        ties: Pairs of equally long ids that are one physical entry each.

    Example:
        >>> joined(5, [(torch.tensor([0, 3]), torch.tensor([2, 2]))])
        tensor([0, 1, 0, 0, 4])
    """
    one = torch.arange(size)
    if not ties:
        return one
    first, second = (torch.cat(side) for side in zip(*ties, strict=True))
    while True:
        before = one.clone()
        smaller = torch.minimum(one[first], one[second])
        for index in (one[first], one[second], first, second):
            one.scatter_reduce_(0, index, smaller, "amin")
        one = one[one]
        if torch.equal(one, before):
            return one
