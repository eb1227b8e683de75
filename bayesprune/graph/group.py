"""A group of structures: what decides about them, and what one of them is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Slice(NamedTuple):
    """A dimension of a parameter or buffer along which the structures of a group lie.

    Attributes:
        tensor: Its name in the network.
        dim: The dimension.
        structure: For each index, which structure it belongs to, shape ``(n,)``; -1 for none of this group.
    """

    tensor: str
    dim: int
    structure: Tensor


@dataclass(frozen=True)
class Group:
    """Structures of one kind, such as the channels of a stream: what one of them is made of goes together.

    Attributes:
        gates: Names of the gates that decide, all of which must be off for a structure to go.
        size: Number of structures.
        written: Names of the layers whose outputs they are, or that a branch is made of.
        read: Names of the layers that read them.
        slices: Where they lie in parameters and buffers; those of θ are left out.
        reason: Why a structure cannot go when its gates are off, in words that complete "it ..."; empty if it can.
        share: Which share of the network's parameters lies in them.

    Examples:
        >>> import torch
        >>> import bayesprune as bp
        >>> from bayesprune import layers
        >>> net = torch.nn.Sequential(layers.Linear(2, 3, gate="unit"), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> units = bp.groups(net)[0]
        >>> units.gates, units.size, units.can_go
        (('0',), 3, True)
        >>> units.of(1)
        [('0.weight', 0, [1]), ('0.bias', 0, [1]), ('2.weight', 1, [1])]
    """

    gates: tuple[str, ...]
    size: int
    written: tuple[str, ...]
    read: tuple[str, ...]
    slices: tuple[Slice, ...]
    reason: str = ""
    share: float = 0.0

    @property
    def can_go(self) -> bool:
        """Whether a structure is removed when its gates are off."""
        return not self.reason

    def of(self, structure: int) -> list[tuple[str, int, list[int]]]:
        """What one structure is made of: tensor, dimension and indices."""
        found = [(part.tensor, part.dim, (part.structure == structure).nonzero()[:, 0]) for part in self.slices]
        return [(tensor, dim, indices.tolist()) for tensor, dim, indices in found if len(indices)]
