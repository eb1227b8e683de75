"""The weights that phases of a run start with, if these are not the present ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bayesprune.methods.protocol import Model, Phase
from bayesprune.schema import shaped
from bayesprune.types import IndexMap


class Starts:
    """Remembers the initial weights of a run, if a phase asks for them.

    Args:
        net: The network as the run begins.
        phases: The phases.

    Attributes:
        initial: What the network, without its gates, held as the run began, by name; empty if no phase asks for it.
    """

    def __init__(self, net: Model, phases: Sequence[Phase]):
        self.net = net
        asked = any(phase.start == "initial" for phase in phases)
        self.initial = {name: value.detach().clone() for name, value in self._held().items()} if asked else {}

    def _held(self) -> dict[str, Tensor]:
        """Weights and buffers by name."""
        return {**self.net.weights(), **dict(self.net.net.named_buffers())}

    def follow(self, index: IndexMap) -> None:
        """Go on with a network that became smaller."""
        self.initial = {n: index.select(n, value) for n, value in self.initial.items() if n in index.kept}

    def load(self, initial: Mapping[str, Tensor]) -> None:
        """Take up the initial weights of a checkpoint.

        Raises:
            Mismatch: if they are not those of this network.
        """
        if self.initial or initial:
            shaped(self.initial)(initial, "initial")
        self.initial = {name: value.to(self.initial[name].device) for name, value in initial.items()}

    @torch.no_grad()
    def apply(self, phase: Phase, generator: torch.Generator) -> None:
        """Let the weights be those that a phase starts with.

        Args:
            phase: The phase.
            generator: Gives the seed of fresh ones.
        """
        if phase.start == "initial":
            held = self._held()
            for name, value in self.initial.items():  # what surgery added, which inputs a gate takes, stays
                held[name].copy_(value)
        if phase.start == "fresh":
            seed = int(torch.randint(2**62, (), generator=generator))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                for module in self.net.net.modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()
