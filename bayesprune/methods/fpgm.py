"""Filters that the others of their layer can stand for go: those near the geometric median (He et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.structures import Ranked


class GeometricMedian(Ranked):
    """Removes filters and units by the sum of distances between their weights and those of the others of their layer.

    Sums of different layers are compared relative to the largest of each.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`; the paper takes the same share of every layer.
        until: As for `Ranked`.

    Examples:
        >>> GeometricMedian(macs=0.25).layerwise
        True

    Sources:
        He, Liu, Wang, Hu & Yang 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
        Acceleration". There filters are zero again and again while training goes on; here they go once.
    """

    name: ClassVar[str] = "fpgm"

    @checked_arguments
    def __init__(self, macs: float = 0.5, layerwise: bool = True, until: float = 0.5):
        super().__init__(macs, layerwise, until)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """The sum of distances of each structure, 1 for the farthest of its layer."""
        sums = [torch.cdist(w, w).sum(1) for w in (written_weights(run.net.net, group) for group in found)]
        return [part / part.max().clamp(min=1e-30) for part in sums]


def written_weights(net: nn.Module, group: Group) -> Tensor:
    """What a structure of a group is written by: for each one a row of all such weights, shape ``(size, n)``.

    Args:
        net: The network.
        group: The group.
    """
    rows = []
    for part in group.slices:
        owner, _, kind = part.tensor.rpartition(".")
        if owner in group.written and kind == "weight":
            weight = net.get_parameter(part.tensor).detach().movedim(part.dim, 0).flatten(1).double()
            rows.append(torch.stack([weight[part.structure == s].flatten() for s in range(group.size)]))
    return torch.cat(rows, 1)
