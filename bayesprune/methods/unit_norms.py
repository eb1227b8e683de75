"""Units whose weights are small by their Euclidean norm go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.structures import Ranked


class UnitNorms(Ranked):
    """Removes units and filters by ‖w‖₂ of the weights that write them.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`; norms of layers with other numbers of weights do not compare.
        until: As for `Ranked`.

    Examples:
        >>> UnitNorms(macs=0.25).layerwise
        True

    Sources:
        The unit pruning of comparisons such as Gomez et al. 2019, "Learning Sparse Networks Using Targeted Dropout".
    """

    name: ClassVar[str] = "unit_norms"

    @checked_arguments
    def __init__(self, macs: float = 0.5, layerwise: bool = True, until: float = 0.5):
        super().__init__(macs, layerwise, until)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """‖w‖₂ of each structure."""
        return [SumsAlong(run.net.net, group, group.written).norms(run.net.net).detach() for group in found]
