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
    changed = True
    while changed:
        before = one.clone()
        for a, b in ties:
            smaller = torch.minimum(one[a], one[b])
            one.scatter_reduce_(0, one[a].clone(), smaller, "amin")
            one.scatter_reduce_(0, one[b].clone(), smaller, "amin")
            one.scatter_reduce_(0, a, smaller, "amin")
            one.scatter_reduce_(0, b, smaller, "amin")
        one = one[one]
        changed = not torch.equal(one, before)
    return one
