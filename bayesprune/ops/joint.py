"""Which entries the slices of a result hold, and which of them may go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Ties = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Joint:
    """Which numbers each slice of a result along ``axis`` holds: ``number[k]`` is in slice ``place[k]``, once.

    Attributes:
        axis, size: The dimension, and how many slices there are.
        place, number: Slices, ascending, and a number that each holds.
    """

    axis: int
    size: int
    place: Tensor
    number: Tensor

    @classmethod
    def of(cls, axis: int, slices: Tensor) -> Joint:
        """Read them off the slices.

        Args:
            axis: The dimension that they lay along.
            slices: Shape ``(size, ...)``.
        """
        size = len(slices)
        if bool((slices == slices[:, :1]).all()):
            return cls(axis, size, torch.arange(size), slices[:, 0].long())
        slices = slices.long()
        low, high = int(slices.min()), int(slices.max())
        pairs = (slices - low + (high - low + 1) * torch.arange(size)[:, None]).unique()
        return cls(axis, size, pairs // (high - low + 1), pairs % (high - low + 1) + low)

    @property
    def first(self) -> Tensor:
        """The smallest number of every slice."""
        return self.number[torch.searchsorted(self.place, torch.arange(self.size))]

    @cached_property
    def together(self) -> tuple[Tensor, Tensor]:
        """Pairs of numbers that follow each other in a slice, each pair once."""
        again = (self.place[1:] == self.place[:-1]).nonzero()[:, 0]
        end = int(self.number.max()) + 1 if len(again) else 1
        pairs = (self.number[again] * end + self.number[again + 1]).unique()
        return pairs // end, pairs % end


NOTHING = Joint(0, 0, torch.arange(0), torch.arange(0))


def slices_along(moved: Tensor, axis: int) -> Tensor:
    """The slices of a result, shape ``(size, rest)``.

    Args:
        moved: The result.
        axis: The dimension that they lie along.
    """
    return moved.movedim(axis, 0).unsqueeze(-1).flatten(1)


def equal_rows(groups: Tensor) -> Ties:
    """What goes in one row goes in all."""
    return [(groups[0], row) for row in groups[1:]]


def removals(classes: Tensor, singly: int = 8) -> Iterator[Tensor]:
    """Some of the sets of entries that might go: each class, or three of many; two halves; and all classes but one.

    Args:
        classes: What goes together.
        singly: Up to how many are many.
    """
    if len(classes) < 2:
        return
    chosen = range(len(classes)) if len(classes) <= singly else (0, len(classes) // 2, len(classes) - 1)
    for k in chosen:
        yield classes[k : k + 1]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        yield classes[torch.randperm(len(classes), generator=generator)[: len(classes) // 2]]
    yield classes[1:]
