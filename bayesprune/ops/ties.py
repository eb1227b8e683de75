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

    Examples:
        >>> joined(5, [(torch.tensor([0, 3]), torch.tensor([2, 2]))])
        tensor([0, 1, 0, 0, 4])
    """
    one = torch.arange(size)
    if not ties:
        return one
    first, second = (torch.cat(side) for side in zip(*ties, strict=True))
    while True:
        apart = one[first] != one[second]
        if not bool(apart.any()):
            return one
        first, second = first[apart], second[apart]
        a, b = one[first], one[second]
        one.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(one, further := one[one]):
            one = further


def joined_within(one: Tensor, ids: Tensor, ties: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """For each of some ids one number, the same for those that go together, shape that of ``ids``.

    Args:
        one: What `joined` gave for all ids.
        ids: Some of them.
        ties: Further pairs that go together.
    """
    sides = [one[side] for tie in ties for side in tie]
    names, place = torch.cat([one[ids], *sides]).unique(return_inverse=True)
    own, *rest = place.split([len(ids), *map(len, sides)])
    return joined(len(names), list(zip(rest[::2], rest[1::2], strict=True)))[own]
