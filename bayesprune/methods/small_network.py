"""A small network from scratch: the control that pruning has to beat (Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Needs, Phase, Run
from bayesprune.methods.protocol.structures import Ranked


class SmallNetwork(Ranked):
    """Takes the same share of every layer's units and filters before the first step, and trains what is left.

    All weights that are left are drawn anew, as their layers draw them. The network is as small for the whole run.

    Args:
        macs: Which share of the multiply-adds is to be left.

    Raises:
        ConfigError: as `Ranked`, and before training where structures are not to be removed (``prune=False``).

    Example:
        >>> SmallNetwork(macs=0.25).options()
        {'macs': 0.25}

    Sources:
        Liu, Sun, Zhou, Huang & Darrell 2019, "Rethinking the Value of Network Pruning": uniform widths, from scratch.
    """

    name: ClassVar[str] = "small_network"

    @checked_arguments
    def __init__(self, macs: float = 0.5):
        super().__init__(macs, layerwise=True)

    def setup(self, run: Run) -> Needs:
        """One phase.

        Raises:
            ConfigError: see the class.
        """
        super().setup(run)
        if not run.prune:
            raise ConfigError("SmallNetwork: prune=False leaves the network as it is; let prune be True")
        return Needs((Phase("from scratch"),))

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """The first of each layer stay; which they are makes no difference."""
        return [-torch.arange(group.size, dtype=torch.float) for group in found]

    @contextmanager
    def epoch(self, run: Run) -> Iterator[None]:
        """Before the first epoch let the network be small."""
        if run.epoch == 0:
            run.remove(self.chosen(run))
            seed = int(torch.randint(2**62, (), generator=run.generator))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                for module in run.net.net.modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()
        yield
