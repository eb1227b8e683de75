"""Factors on weights, one for each structure: what methods that draw structures while training have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bayesprune.graph.group import Group
from bayesprune.ops import operation_of


class Along:
    """Multiplies weights by one number for each structure that they belong to.

    Where structures lie is found once. They are numbered through, those of a group after those of the one before.

    Args:
        net: The network.
        found: The groups.
        role: ``"in"`` for the weights that read structures, ``"out"`` for those that write them.

    Attributes:
        sizes: The number of structures of each group.
        weights: By structure, how many weights are multiplied with it.

    Example:
        >>> import bayesprune as bp
        >>> net = nn.Sequential(bp.layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1, bias=False))
        >>> units = bp.groups(net)[:1]
        >>> along = Along(net, units, "in")
        >>> along("2.weight", torch.ones(1, 3), torch.tensor([0.0, 0.5, 1.0]))
        tensor([[0.0000, 0.5000, 1.0000]])
    """

    def __init__(self, net: nn.Module, found: Sequence[Group], role: Literal["in", "out"]):
        self.sizes = [group.size for group in found]
        self.weights = torch.zeros(sum(self.sizes))
        self._places: dict[str, list[tuple[int, Tensor]]] = {}
        start = 0
        for group in found:
            for name in group.read if role == "in" else group.written:
                parts = operation_of(net.get_submodule(name)).parts
                roles = () if parts is None else parts(net.get_submodule(name)).tensors.get("weight", ())
                for part in group.slices:
                    if part.tensor == f"{name}.weight" and role in roles[part.dim : part.dim + 1]:
                        self._add(net.get_parameter(part.tensor), part.tensor, part.dim, part.structure, start)
            start += group.size

    def _add(self, weight: Tensor, name: str, dim: int, structure: Tensor, start: int) -> None:
        """Note that structures lie along a dimension of a weight.

        Args:
            weight: The weight.
            name: Its name.
            dim: The dimension.
            structure: For each index which structure of its group it belongs to, -1 for none.
            start: The number of the group's first structure.
        """
        place = torch.where(structure < 0, len(self.weights), structure + start)  # behind them is the place of none
        counts = torch.full(place.shape, weight.numel() / weight.shape[dim])
        self.weights += counts.new_zeros(len(self.weights) + 1).index_add(0, place, counts)[:-1]
        self._places.setdefault(name, []).append((dim, place.to(weight.device)))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __call__(self, name: str, weight: Tensor, factors: Tensor) -> Tensor:
        """A weight times its factors; itself, if no structure lies along it.

        Args:
            name: Its name.
            weight: The weight.
            factors: One for each structure, shape ``(n,)``.
        """
        for dim, place in self._places.get(name, ()):
            shape = [1] * weight.dim()
            shape[dim] = len(place)
            weight = weight * torch.cat([factors, factors.new_ones(1)])[place].view(shape)
        return weight


def all_along(net: nn.Module, group: Group, role: Literal["in", "out"]) -> bool:
    """Whether every layer that reads, or writes, the structures of a group has a weight along them.

    Args:
        net: The network.
        group: The group.
        role: As for `Along`.
    """
    along, names = Along(net, [group], role), group.read if role == "in" else group.written
    return bool(names) and all(f"{name}.weight" in along for name in names)
