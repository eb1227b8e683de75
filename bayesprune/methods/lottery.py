"""Lottery tickets: the smallest weights go, cycle by cycle, and what is left starts anew (Frankle & Carbin 2019)."""

from __future__ import annotations

from typing import ClassVar

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.methods.protocol import Decision, Method, Needs, Run
from bayesprune.methods.protocol.cycles import cycles_of
from bayesprune.methods.protocol.ranking import smallest_weights


class LotteryTicket(Method):
    """Masks the smallest weights of each layer at the end of every cycle but the last, which all start from one point.

    Every cycle trains what is left from the initial weights, with a new optimiser. Of the weights of a layer that are
    left a share goes at a time, of the last layer half of it.

    Args:
        share: Which share of a layer's weights that are left goes at a time.
        cycles: How often is trained; a shorter run has as many cycles as epochs.

    Raises:
        ConfigError: for a share outside (0, 1), or a number of cycles that is not whole and positive; and before
            training, if there is no second cycle.

    Examples:
        >>> LotteryTicket(cycles=3).options()
        {'share': 0.2, 'cycles': 3}

    Sources:
        Frankle & Carbin 2019, "The Lottery Ticket Hypothesis"; shares as for its fully connected networks. A run of E
        epochs has cycles of E divided by their number; the paper gives each the length of a whole training.
    """

    name: ClassVar[str] = "lottery"

    @checked_arguments
    def __init__(self, share: float = 0.2, cycles: int = 10):
        super().__init__()
        self.share = real("lottery: share", share, 0, 1)
        self.cycles = whole("lottery: cycles", cycles)

    def setup(self, run: Run) -> Needs:
        """One phase a cycle."""
        phases = cycles_of("LotteryTicket", self.cycles, run.epochs)
        self.last = phases[-1].name
        return Needs(phases)

    def decide(self, run: Run) -> Decision:
        """Mask the smallest of the weights that are left."""
        if run.phase.name == self.last:
            return Decision()
        weights = {site.name: site.weight for site in run.sites if site.kind == "weight"}
        masks = {}
        for name, weight in weights.items():
            kept = run.masks.get(name)
            left = 1.0 if kept is None else float(kept.float().mean())
            share = self.share / 2 if name == [*weights][-1] else self.share
            masks[name] = ~smallest_weights(weight, 1 - left * (1 - share), kept)
        return Decision(masks=masks)
