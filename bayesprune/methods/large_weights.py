"""Pruning the largest weights while training goes on, after Bartoldson et al. 2018."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.ranking import smallest


class LargeWeights(Method):
    """Masks ever more weights of each layer, the largest of those that are left, in events at equal distances.

    After event i of n a layer of N weights that is to keep F has ⌈F + (N − F)(n − i)/n⌉ left. It works against the
    network, and regularises: what is left has to go on without.

    Args:
        sparsity: 1 − F/N, which share of each layer's weights goes.
        events: n, how many there are; a shorter run has one an epoch.
        until: After which share of the run the last one is.

    Raises:
        ConfigError: for shares outside (0, 1), or a number of events that is not whole and positive.

    Examples:
        >>> [LargeWeights(sparsity=0.9, events=3).left(10, event) for event in (1, 2, 3)]
        [7, 4, 1]

    Sources:
        After Bartoldson, Barbu & Erlebacher 2018, "Enhancing the Regularization Effect of Weight Pruning in Artificial
        Neural Networks", of which the abstract was known; the schedule of events is that of Bartoldson, Morcos, Barbu &
        Erlebacher 2020.
    """

    name: ClassVar[str] = "large_weights"

    @checked_arguments
    def __init__(self, sparsity: float = 0.85, events: int = 5, until: float = 0.5):
        super().__init__()
        self.sparsity = real("large_weights: sparsity", sparsity, 0, 1)
        self.events = whole("large_weights: events", events)
        self.until = real("large_weights: until", until, 0, 1)

    def left(self, weights: int, event: int) -> int:
        """How many of a layer's weights are left after an event.

        Args:
            weights: How many it has.
            event: Which event, from 1 to ``events``.
        """
        kept = max(1, round((1 - self.sparsity) * weights))
        return math.ceil(kept + (weights - kept) * (self.events - event) / self.events)

    def setup(self, run: Run) -> Needs:
        """One phase, looked at after every epoch."""
        return Needs((Phase("prune", decide_every=1),))

    def decide(self, run: Run) -> Decision:
        """Mask the largest weights that are left, where an event is due."""
        event = min(self.events, math.floor(self.events * run.progress / self.until + 1e-9))
        masks = {}
        for site in run.sites if event else ():
            if site.kind == "weight":
                sizes = site.weight.detach().abs().flatten()
                if site.name in run.masks:
                    sizes = sizes.masked_fill(~run.masks[site.name].flatten(), torch.inf)
                masks[site.name] = smallest(sizes, self.left(len(sizes), event)).view(site.weight.shape)
        return Decision(masks=masks)
