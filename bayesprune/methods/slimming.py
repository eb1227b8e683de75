"""Network slimming: channels whose scale in a batch normalisation was driven to 0 go (Liu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
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

    Example:
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
        self.penalty = real("Slimming: penalty", penalty, 0)

    def grads(self, run: Run) -> None:
        """The sub-gradient of s Σ|γ|."""
        if run.phase.name == "train":
            for scale in _scales(run.net.net):
                if scale.grad is not None:
                    scale.grad.add_(scale.detach().sign(), alpha=self.penalty)

    def may_go(self, net: nn.Module, group: Group) -> bool:
        """Whether a batch normalisation scales the structures of a group."""
        return bool(_scales_of(net, group))

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """Σ|γ| of each structure."""
        return [torch.stack(_scales_of(run.net.net, group)).sum(0) for group in found]


def _scales(net: nn.Module) -> Iterator[nn.Parameter]:
    """The scales of all batch normalisations that have some."""
    return (m.weight for m in net.modules() if isinstance(m, _BatchNorm) and m.affine)


def _scales_of(net: nn.Module, group: Group) -> list[Tensor]:
    """|γ| of each batch normalisation along the structures of a group, shape ``(size,)`` each.

    Args:
        net: The network.
        group: The group.
    """
    found = []
    for part in group.slices:
        owner, _, kind = part.tensor.rpartition(".")
        if kind == "weight" and isinstance(net.get_submodule(owner), _BatchNorm):
            sizes = net.get_parameter(part.tensor).detach().abs()
            found.append(torch.stack([sizes[part.structure == s].sum() for s in range(group.size)]))
    return found
