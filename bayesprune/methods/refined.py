"""Layers give by how many zeros go into what reads them: after "layer-wise refined pruning" on FPGAs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.errors import ConfigError
from bayesprune.graph import trace
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Needs, Run
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.stats import Statistic
from bayesprune.methods.protocol.structures import Ranked
from bayesprune.ops import operation_of

ZEROING = ("relu", "relu6")
"""Activations that give zeros."""


class RefinedLayerwise(Ranked):
    """Removes from each layer the channels of the least importance, more where more zeros go into what reads them.

    A channel's importance is |γ| of the batch normalisation that scales it, or else the mean |w| of what writes it,
    as a share of its layer's. A layer whose channels are 0 in the share q of what is read of them gives the least of
    these, whose importance together is at most κ q; one κ serves all layers, the smallest by which the target is met.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.

    Raises:
        ConfigError: as `Ranked`, and before training, for a network without ReLUs, in which nothing is exactly 0.

    Examples:
        >>> RefinedLayerwise.statistics
        ('zeros_in',)

    Sources:
        Ours, after the abstract of a paper on layer-wise refined pruning of ResNet-50, ResNet-101 and VGG-13 for FPGAs,
        by which channel importance and the input sparsity of convolutions say what goes, without more training.
    """

    name: ClassVar[str] = "refined"
    statistics: ClassVar[tuple[Statistic, ...]] = ("zeros_in",)
    lacks: ClassVar[str] = "no linear layer or convolution reads the units or filters that have gates"

    def setup(self, run: Run) -> Needs:
        """As `Ranked`.

        Raises:
            ConfigError: see the class.
        """
        net = run.net.net
        traced = trace(net, run.example)
        if not any(operation_of(node, traced.module(node)).name in ZEROING for node in traced.graph.nodes):
            raise ConfigError(
                "refined: the network has no ReLU, so nothing in it is exactly 0; take a method that goes by "
                "the weights alone, l1_filters say"
            )
        return super().setup(run)

    def may_go(self, net: nn.Module, group: Group) -> bool:
        """Whether a layer reads them of which the zeros are counted."""
        return bool(_weights_of(net, group.read))

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """κ at which each structure goes: the importance of those that go before it and its own, over q."""
        net, told = run.net.net, run.stats().zeros_in
        scores = []
        for group in found:
            zeros = torch.stack([told[name].double() for name in _weights_of(net, group.read) if name in told]).mean()
            important = importance(net, group)
            order = important.argsort(stable=True)
            together = torch.zeros_like(important)
            together[order] = important[order].cumsum(0) / important.sum().clamp(min=1e-30)
            scores.append(together / zeros.clamp(min=1e-12))
        return scores


def importance(net: nn.Module, group: Group) -> Tensor:
    """|γ| of each structure of a group, or where no normalisation scales it its mean |w|, shape ``(size,)``.

    Args:
        net: The network.
        group: The group.
    """
    slices = {part.tensor.removesuffix(".weight") for part in group.slices}
    norms = {name for name, m in net.named_modules() if isinstance(m, _BatchNorm) and m.affine} & slices
    if norms:
        return SumsAlong(net, group, norms)(net, torch.abs).detach().double().cpu()
    sums = SumsAlong(net, group, group.written)
    entries = sums(net, torch.ones_like)  # as many for each structure, but for those of several layers
    return (sums(net, torch.abs) / entries.clamp(min=1)).detach().double().cpu()


def _weights_of(net: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the weights of some layers, as statistics have them."""
    weights = {name for name, weight in net.named_parameters() if weight.dim() > 1}
    return [f"{name}.weight" for name in layers if f"{name}.weight" in weights]
