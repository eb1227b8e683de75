"""Filters go whose maps have a low rank (Lin et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.stats import Statistic
from bayesprune.methods.protocol.structures import Ranked


class HRank(Ranked):
    """Removes filters by the mean rank of their maps, as matrices of rows and columns.

    Ranks of different layers are compared relative to the largest of each.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.

    Examples:
        >>> HRank.statistics
        ('rank',)

    Sources:
        Lin, Ji, Wang, Zhang, Zhang, Tian & Shao 2020, "hrank: Filter Pruning using High-Rank Feature Map". Its shares
        of each layer are chosen by hand; here one target serves all.
    """

    name: ClassVar[str] = "hrank"
    statistics: ClassVar[tuple[Statistic, ...]] = ("rank",)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """The mean rank of each structure, 1 for the highest of its group."""
        told = run.stats().rank
        sums = [torch.stack([told[name] for name in group.gates]).sum(0) for group in found]
        return [part / part.max().clamp(min=1e-30) for part in sums]
