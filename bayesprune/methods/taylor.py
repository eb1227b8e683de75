"""Structures go whose removal changes the loss least, to first order (Molchanov et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Run
from bayesprune.methods.protocol.stats import Statistic
from bayesprune.methods.protocol.structures import Ranked


class Taylor(Ranked):
    """Removes units and filters by |Σ a ∂ℓ/∂a|, a what they give: the derivative of the loss for a gate at 1.

    Scores of a gate are divided by their Euclidean norm, so that layers can be compared.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.
        size: Whether the absolute value is taken of each ``"example"`` and then the mean, or of the mean of ``"all"``.

    Raises:
        ConfigError: as `Ranked`, and for another ``size``.

    Examples:
        >>> Taylor(size="all").size
        'all'

    Sources:
        Molchanov, Tyree, Karras, Aila & Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
        Inference", equations 7 to 9. There few filters go at a time, over many rounds; here all go once.
    """

    name: ClassVar[str] = "taylor"
    statistics: ClassVar[tuple[Statistic, ...]] = ("act_grad",)

    @checked_arguments
    def __init__(
        self,
        macs: float = 0.5,
        layerwise: bool = False,
        until: float = 0.5,
        size: Literal["example", "all"] = "example",
    ):
        super().__init__(macs, layerwise, until)
        if size not in ("example", "all"):
            raise ConfigError(f"taylor: size must be 'example' or 'all', got {size!r}")
        self.size = size

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """The change of the loss without each structure, relative to those of its group."""
        told = run.stats().act_grad
        sums = [
            torch.stack([told[name].size if self.size == "example" else told[name].mean.abs() for name in group.gates])
            for group in found
        ]
        return [part.sum(0) / part.sum(0).norm().clamp(min=1e-30) for part in sums]
