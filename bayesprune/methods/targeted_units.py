"""Targeted dropout of units: while training, units that would be pruned are often 0 already (Gomez et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Decision, Needs, Run, Site, Value
from bayesprune.methods.protocol.along import Along, SumsAlong, all_along
from bayesprune.methods.protocol.ranking import smallest, whole_part
from bayesprune.methods.protocol.structures import Ranked
from bayesprune.methods.targeted_dropout import risen


class TargetedUnits(Ranked):
    """Lets the units and filters of the smallest weights be 0 at random in each step; the smallest go.

    Of each layer's n units the ⌊γ n⌋ of the least ‖w‖₂ are *targeted*: the weights that write each of them are all 0
    with probability α in a step, and nothing else is changed by it. Both rise as those of `targeted_dropout`, over the
    first 0.4 of the time until units go.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`; the paper takes the same share of every layer.
        until: As for `Ranked`; in the paper units go at the end, and nothing is trained after.
        gamma: γ, which share of a layer's units is targeted.
        alpha: α, with what probability a targeted unit is 0 in a step.
        per_weight: Whether each weight of a targeted unit is drawn for itself, as in the paper's code.

    Raises:
        ConfigError: as `Ranked`, for shares outside (0, 1), and at the start of a run for a network in which none is
            targeted.

    Examples:
        >>> [round(share, 3) for share in TargetedUnits(gamma=0.5, alpha=0.9, until=0.5).shares(0.05)]
        [0.237, 0.225]

    Sources:
        Gomez, Zhang, Kamalakara, Madaan, Swersky, Gal & Hinton 2019, "Learning Sparse Networks Using Targeted Dropout":
        units. That the target is one of multiply-adds, and that what is left trains on, is ours.
    """

    name: ClassVar[str] = "targeted_units"
    lacks: ClassVar[str] = (
        "what writes the units or filters that have gates has no weights along them; take taylor, say"
    )

    @checked_arguments
    def __init__(
        self,
        macs: float = 0.5,
        layerwise: bool = True,
        until: float = 0.5,
        gamma: float = 0.75,
        alpha: float = 0.66,
        per_weight: bool = False,
    ):
        super().__init__(macs, layerwise, until)
        self.gamma = real("targeted_units: gamma", gamma, 0, 1)
        self.alpha = real("targeted_units: alpha", alpha, 0, 1, "(]")
        self.per_weight = per_weight
        self._along: Along | None = None

    def may_go(self, net: nn.Module, group: Group) -> bool:
        """Whether every layer that writes the structures has a weight along them."""
        return all_along(net, group, "out")

    def shares(self, progress: float) -> tuple[float, float]:
        """γ and α after this share of a run."""
        return risen(self.gamma, self.alpha, progress / self.until)

    def setup(self, run: Run) -> Needs:
        """As `Ranked`, with views of weights.

        Raises:
            ConfigError: if no layer has enough units.
        """
        needs, net = super().setup(run), run.net.net
        found = self.ranked(net, run.example)
        if not any(whole_part(self.gamma, group.size) for group in found):
            raise ConfigError(
                f"targeted_units: gamma={self.gamma} of a layer's units is less than one in every layer; raise it, or "
                "take a wider network"
            )
        self._along = Along(net, found, "out")
        self._norms = [SumsAlong(net, group, group.written) for group in found]
        self._drop: Tensor | None = None
        return Needs(needs.phases, views=frozenset({"weight"}))

    def objective(self, run: Run) -> Value:
        """The objective with the units of this step at 0."""
        if self._along is not None and run.phase.name == "train":
            gamma, alpha = self.shares(run.progress)
            with torch.no_grad():
                norms = [sums.norms(run.net.net) for sums in self._norms]
                drop = torch.cat([smallest(part, whole_part(gamma, len(part))) for part in norms]).float()
                if not self.per_weight:
                    drop *= (torch.rand(drop.shape, generator=run.generator) < alpha).to(drop.device)
                self._drop = drop
        try:
            return super().objective(run)
        finally:
            self._drop = None

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """The weights, of which those of units that are drawn are 0 while training."""
        if self._along is None or self._drop is None or site.name not in self._along:
            return value
        if not self.per_weight:
            return self._along(site.name, value, 1 - self._drop.to(value))
        targeted = self._along(site.name, torch.ones_like(value), 1 - self._drop.to(value)) == 0
        alpha = self.shares(run.progress)[1]
        drop = torch.rand(value.shape, generator=run.generator).to(value.device) < alpha
        return value.masked_fill(targeted & drop, 0.0)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """‖w‖₂ of each structure."""
        return [SumsAlong(run.net.net, group, group.written).norms(run.net.net).detach() for group in found]

    def decide(self, run: Run) -> Decision:
        """As `Ranked`; from here on nothing is drawn."""
        decision = super().decide(run)
        self._along = None
        return decision
