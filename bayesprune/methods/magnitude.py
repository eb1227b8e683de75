"""Gradual magnitude pruning: ever more of the smallest weights are 0 (Zhu & Gupta 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.ranking import smallest


class Magnitude(Method):
    """Masks the smallest weights of all layers together: p(t) = p_f (1 − (1 − t/T)³) after the share t of it.

    Masked weights stay masked. The final share is reached at ``until``, so that the weights that are left train on.
    Each layer keeps its largest weight, so none is left empty.

    Args:
        sparsity: p_f, which share of the weights is 0 in the end.
        until: T, at which share of the run.

    Raises:
        ConfigError: for shares outside (0, 1), or an ``until`` outside (0, 1].

    Example:
        >>> round(Magnitude(sparsity=0.8).share(0.25), 6)  # half of the way to T
        0.7
    """

    name: ClassVar[str] = "magnitude"

    @checked_arguments
    def __init__(self, sparsity: float = 0.9, until: float = 0.5):
        super().__init__()
        self.sparsity = real("Magnitude: sparsity", sparsity, 0, 1)
        self.until = real("Magnitude: until", until, 0, 1, "(]")

    def share(self, progress: float) -> float:
        """Which share of the weights is masked at this share of a run."""
        return self.sparsity * (1 - (1 - min(1.0, progress / self.until)) ** 3)

    def setup(self, run: Run) -> Needs:
        """One phase, with a decision after every epoch."""
        return Needs((Phase("prune", decide_every=1),))

    def decide(self, run: Run) -> Decision:
        """Mask the smallest weights of all sites, but never the largest of one; those that are masked are 0."""
        weights = {site.name: site.weight.detach() for site in run.sites if site.kind == "weight"}
        sizes = torch.cat([torch.zeros(0), *(_sizes(weight) for weight in weights.values())])
        count = min(round(self.share(run.progress) * len(sizes)), len(sizes) - len(weights))
        parts = (~smallest(sizes, count)).split([weight.numel() for weight in weights.values()])
        masks = {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}
        return Decision(masks=masks)


def _sizes(weight: Tensor) -> Tensor:
    """The size of each entry, the largest one taken for infinite."""
    sizes = weight.abs().flatten().float().cpu()
    if len(sizes):
        sizes[sizes.argmax()] = torch.inf
    return sizes
