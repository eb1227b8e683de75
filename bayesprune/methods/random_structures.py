"""Units and filters go at random: the control that a choice has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.structures import Ranked


class RandomStructures(Ranked):
    """Removes units and filters at random, by the run's own random numbers.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.

    Examples:
        >>> RandomStructures().options()
        {'macs': 0.5, 'layerwise': False, 'until': 0.5}

    Sources:
        A control, as in Mittal, Bhardwaj, Khapra & Ravindran 2018, "Recovering from Random Pruning".
    """

    name: ClassVar[str] = "random_structures"

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """A number from 0 to 1 for each structure."""
        return [torch.rand(group.size, generator=run.generator) for group in found]
