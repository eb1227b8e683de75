"""Group lasso: the norms of structures' weights are penalised, and the smallest structures go (Wen et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Needs, Run
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.structures import Ranked


class GroupLasso(Ranked):
    """Adds λ Σ ‖w‖₂ to the loss, over the weights that write each unit or filter; the smallest go.

    After the removal the penalty is off.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.
        penalty: λ, nats per example.

    Raises:
        ConfigError: as `Ranked`, and for a negative penalty.

    Examples:
        >>> GroupLasso(penalty=1e-2).penalty
        0.01

    Sources:
        Wen, Wu, Wang, Chen & Li 2016, "Learning Structured Sparsity in Deep Neural Networks", filters alone; Yuan & Lin
        2006 for the penalty, here by its sub-gradient.
    """

    name: ClassVar[str] = "group_lasso"

    @checked_arguments
    def __init__(self, macs: float = 0.5, layerwise: bool = False, until: float = 0.5, penalty: float = 1e-3):
        super().__init__(macs, layerwise, until)
        self.penalty = real("group_lasso: penalty", penalty, 0, ends="[)")
        self._written: list[SumsAlong] = []

    def setup(self, run: Run) -> Needs:
        """As `Ranked`, with the groups at hand."""
        needs = super().setup(run)
        net = run.net.net
        self._written = [SumsAlong(net, group, group.written) for group in self.ranked(net, run.example)]
        return needs

    def loss(self, run: Run) -> Tensor | float:
        """λ Σ ‖w‖₂."""
        if run.phase.name != "train" or not self._written:
            return 0.0
        return self.penalty * torch.stack([sums.norms(run.net.net).sum() for sums in self._written]).sum()

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """‖w‖₂ of each structure; from here on nothing is penalised."""
        self._written, net = [], run.net.net
        return [SumsAlong(net, group, group.written).norms(net).detach() for group in found]
