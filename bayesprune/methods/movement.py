"""Movement pruning: weights that training moves towards 0 go, whatever their size (Sanh, Wolf & Rush 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.methods.magnitude import rising
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run, Site
from bayesprune.methods.protocol.ranking import smallest


class Movement(Method):
    """Computes with the weights of each layer that have the largest scores; a score falls by w ∂L/∂w in every step.

    A score is trained as weights are, by the derivative that w times its mask has where the mask is taken for the score
    itself (straight through); so weights that are 0 for now go on being scored, and stay as they are until their score
    is large enough. Which share of a layer is 0 rises as for `Magnitude`. From ``until`` on the mask stays.

    Args:
        sparsity: Which share of each layer's weights is 0 in the end.
        until: After which share of the run the mask stays.

    Raises:
        ConfigError: for shares outside (0, 1).

    Examples:
        >>> Movement(sparsity=0.95).options()
        {'sparsity': 0.95, 'until': 0.5}

    Sources:
        Sanh, Wolf & Rush 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", hard movement pruning: a share of
        each layer, scores from 0. Here scores are trained by the optimiser of the weights, and all layers count, also
        the last.
    """

    name: ClassVar[str] = "movement"

    @checked_arguments
    def __init__(self, sparsity: float = 0.9, until: float = 0.5):
        super().__init__()
        self.sparsity = real("movement: sparsity", sparsity, 0, 1)
        self.until = real("movement: until", until, 0, 1)

    def setup(self, run: Run) -> Needs:
        """Score, with views of weights, then train what is left."""
        weights = [site for site in run.sites if site.kind == "weight"]
        self.places = {site.name: k for k, site in enumerate(weights)}
        self.score = nn.ParameterList([torch.zeros_like(site.weight) for site in weights])
        phases = Phase("score", share=self.until), Phase("tune", share=1 - self.until, restart=False)
        return Needs(phases, views=frozenset({"weight"}))

    def kept(self, name: str, share: float) -> Tensor:
        """Which entries of a weight have the largest scores, bool.

        Args:
            name: Of the weight.
            share: Which share has not.
        """
        score = self.score[self.places[name]].detach()
        count = min(round(share * score.numel()), score.numel() - 1)
        return ~smallest(score.flatten(), count).view(score.shape)

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """The weight, 0 where scores are small."""
        if run.phase.name != "score" or not self.places:
            return value
        score = self.score[self.places[site.name]]
        kept = self.kept(site.name, rising(self.sparsity, run.progress / self.until))
        return value * (kept.to(value.dtype) + (score - score.detach()))

    def decide(self, run: Run) -> Decision:
        """Mask the weights of small scores as the first phase ends."""
        if run.phase.name != "score":
            return Decision()
        masks = {name: self.kept(name, self.sparsity) for name in self.places}
        self.places = {}
        return Decision(masks=masks)
