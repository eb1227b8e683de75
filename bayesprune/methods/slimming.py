"""Network slimming: channels whose scale in a batch normalisation was driven to 0 go (Liu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Needs, Run
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.structures import Ranked


class Slimming(Ranked):
    """Adds s Σ|γ| to the loss, γ the scales of batch normalisations, and removes the channels of the least |γ|.

    Channels without a normalisation of their own are left. After the removal the penalty is off.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`; in the paper all are ranked together.
        until: As for `Ranked`.
        penalty: s, nats per example.

    Raises:
        ConfigError: as `Ranked`, for a negative penalty, and before training, if no channel that can go has a scale.

    Examples:
        >>> Slimming(penalty=1e-3).penalty
        0.001

    Sources:
        Liu, Li, Shen, Huang, Yan & Zhang 2017, "Learning Efficient Convolutional Networks through Network Slimming",
        equation 1, by the sub-gradient of |γ|.
    """

    name: ClassVar[str] = "slimming"
    lacks: ClassVar[str] = (
        "no batch normalisation scales the units or filters that have gates; put one between a layer and its gate, or "
        "take another method, l1_filters say"
    )

    @checked_arguments
    def __init__(self, macs: float = 0.5, layerwise: bool = False, until: float = 0.5, penalty: float = 1e-4):
        super().__init__(macs, layerwise, until)
        self.penalty = real("slimming: penalty", penalty, 0, ends="[)")

        self._scaled: list[_BatchNorm] = []

    def setup(self, run: Run) -> Needs:
        """As `Ranked`, with the normalisations at hand."""
        needs = super().setup(run)
        self._scaled = [module for _, module in _normalisations(run.net.net)]
        return needs

    def grads(self, run: Run) -> None:
        """The sub-gradient of s Σ|γ|."""
        if run.phase.name == "train":
            for module in self._scaled:
                if module.weight.grad is not None:
                    module.weight.grad.add_(module.weight.detach().sign(), alpha=self.penalty)

    def may_go(self, net: nn.Module, group: Group) -> bool:
        """Whether a batch normalisation scales the structures of a group."""
        scaled = {name for name, _ in _normalisations(net)}
        return any(part.tensor.removesuffix(".weight") in scaled for part in group.slices)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """Σ|γ| of each structure."""
        net, scaled = run.net.net, [name for name, _ in _normalisations(run.net.net)]
        return [SumsAlong(net, group, scaled)(net, torch.abs).detach() for group in found]


def _normalisations(net: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """All batch normalisations that have scales, with their names."""
    return [(name, module) for name, module in net.named_modules() if isinstance(module, _BatchNorm) and module.affine]
