"""Units whose weights are small by their Euclidean norm go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.structures import Ranked, SumsAlong


class UnitNorms(Ranked):
    """Removes units and filters by ‖w‖₂ of the weights that write them.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.

    Example:
        >>> UnitNorms(layerwise=True).layerwise
        True

    Sources:
        The unit pruning of comparisons such as Gomez et al. 2019, "Learning Sparse Networks Using Targeted Dropout".
    """

    name: ClassVar[str] = "unit_norms"

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """‖w‖₂ of each structure."""
        return [SumsAlong(run.net.net, group, group.written).norms(run.net.net).detach() for group in found]
