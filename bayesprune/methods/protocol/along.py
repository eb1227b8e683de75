"""Weights along the structures of groups: where they lie, factors on them, one for each structure, and sums of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bayesprune.graph.group import Group
from bayesprune.ops import operation_of


class Lying(NamedTuple):
    """That the structures of a group lie along a dimension of a weight.

    Attributes:
        name: Of the weight.
        dim: The dimension.
        place: For each of its indices the structure that it belongs to; the number of structures for none.

    Examples:
        >>> Lying("0.weight", 0, torch.tensor([0, 1, 2])).dim
        0
    """

    name: str
    dim: int
    place: Tensor


def weights_along(net: nn.Module, group: Group, layers: Collection[str]) -> Iterator[Lying]:
    """Where the structures of a group lie along weights.

    Args:
        net: The network.
        group: The group.
        layers: Names of the modules whose weights count.
    """
    for part in group.slices:
        owner, _, kind = part.tensor.rpartition(".")
        if owner in layers and kind.startswith("weight"):  # of recurrent layers weight_ih_l0, say
            place = part.structure.where(part.structure >= 0, group.size)
            yield Lying(part.tensor, part.dim, place.to(net.get_parameter(part.tensor).device))


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

    Examples:
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
                for lying in weights_along(net, group, [name]):
                    if lying.name == f"{name}.weight" and role in roles[lying.dim : lying.dim + 1]:
                        self._add(lying, net.get_parameter(lying.name), slice(start, start + group.size))
            start += group.size

    def _add(self, lying: Lying, weight: Tensor, own: slice) -> None:
        """Note that structures lie along a dimension of a weight.

        Args:
            lying: Where.
            weight: The weight.
            own: The numbers of the group's structures.
        """
        count = weight.numel() / weight.shape[lying.dim]
        self.weights[own] += count * torch.bincount(lying.place.cpu(), minlength=own.stop - own.start + 1)[:-1]
        place = torch.where(lying.place == own.stop - own.start, len(self.weights), lying.place + own.start)
        self._places.setdefault(lying.name, []).append((lying.dim, place))

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


class SumsAlong:
    """Sums over the entries of some parameters that belong to each structure of a group.

    Where these lie is found once, so that a sum in every step takes a few operations for each parameter.

    Args:
        net: The network.
        group: The group.
        layers: Names of the modules whose weights count.

    Examples:
        >>> import bayesprune as bp
        >>> net = nn.Sequential(bp.layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> (units,) = (group for group in bp.groups(net) if group.gates)
        >>> bool((SumsAlong(net, units, units.written)(net, torch.abs) == net[0].weight.abs().sum(1)).all())
        True
    """

    def __init__(self, net: nn.Module, group: Group, layers: Collection[str]):
        self.size = group.size
        self._parts = list(weights_along(net, group, layers))

    def __call__(self, net: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The sums of a function of the entries, differentiable, shape ``(size,)``.

        Args:
            net: The network, as it was.
            function: Of every entry.
        """
        total = torch.zeros(())
        for name, dim, place in self._parts:
            along = function(net.get_parameter(name)).movedim(dim, 0)
            sums = along.reshape(len(along), -1).sum(1)
            total = sums.new_zeros(self.size + 1).index_add(0, place, sums) + total.to(sums)
        return total[: self.size] if self._parts else torch.zeros(self.size)

    def norms(self, net: nn.Module) -> Tensor:
        """The Euclidean norms of the entries, differentiable also where they are 0, shape ``(size,)``."""
        squares = self(net, torch.square)
        return (squares + torch.finfo(squares.dtype).tiny).sqrt()
