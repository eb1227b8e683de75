"""Filters whose weights are small in sum go (Li et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.structures import Ranked


class L1Filters(Ranked):
    """Removes filters and units by Σ|w| of the weights that write them.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`; sums of layers with other numbers of weights do not compare, and in the
            paper shares are chosen layer by layer.
        until: As for `Ranked`.

    Examples:
        >>> L1Filters(macs=0.25).macs
        0.25

    Sources:
        Li, Kadav, Durdanovic, Samet & Graf 2017, "Pruning Filters for Efficient ConvNets". Its shares of each layer are
        chosen by hand; here one target serves all.
    """

    name: ClassVar[str] = "l1_filters"

    @checked_arguments
    def __init__(self, macs: float = 0.5, layerwise: bool = True, until: float = 0.5):
        super().__init__(macs, layerwise, until)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """Σ|w| of each structure."""
        return [SumsAlong(run.net.net, group, group.written)(run.net.net, torch.abs).detach() for group in found]
