"""dropneuron: units whose incoming or outgoing weights were driven to 0 go (Pan, Dong & Guo 2016)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.structures import nothing_ranked, ranked_groups

SCALE = 0.1
"""What the code of the paper multiplies all penalties by."""


class DropNeuron(Method):
    """Penalises the norms of each unit's incoming and of its outgoing weights, and Σ|w| besides; small units go.

    The loss has 0.1 (l1 Σ|w| + groups Σ (‖in‖₂ + ‖out‖₂)) more. After half of the run a unit goes unless both of its
    norms are larger than the threshold, and weights below the threshold are 0, but the largest of each output; then
    what is left trains without penalties. Every gate keeps a unit.

    Args:
        l1: Penalty of single weights, nats per example.
        groups: Penalty of the two norms of each unit.
        threshold: τ.
        until: After which share of the run units go.

    Raises:
        ConfigError: for negative penalties or thresholds, a share outside (0, 1), and before training, if no gate holds
            several units or filters that can go, or batch normalisations scale them: penalties change nothing there.

    Examples:
        >>> DropNeuron().options()
        {'l1': 0.0001, 'groups': 0.0005, 'threshold': 0.01, 'until': 0.5}

    Sources:
        Pan, Dong & Guo 2016, "dropneuron: Simplifying the Structure of Deep Neural Networks", equations 3 and 4, with
        the factor of 0.1 and the defaults for LeNet-300-100 of its code. There weights are cut once after the run, and
        a unit counts as left by the smaller number of rows and columns that are not 0.
    """

    name: ClassVar[str] = "dropneuron"

    @checked_arguments
    def __init__(self, l1: float = 1e-4, groups: float = 5e-4, threshold: float = 1e-2, until: float = 0.5):
        super().__init__()
        self.l1 = real("dropneuron: l1", l1, 0, ends="[)")
        self.groups = real("dropneuron: groups", groups, 0, ends="[)")
        self.threshold = real("dropneuron: threshold", threshold, 0, ends="[)")
        self.until = real("dropneuron: until", until, 0, 1)
        self._units: list[tuple[Group, SumsAlong, SumsAlong]] = []

    def setup(self, run: Run) -> Needs:
        """Train with penalties, then without.

        Raises:
            ConfigError: see the class.
        """
        net = run.net.net
        found = ranked_groups(net, run.example)
        if not found:
            raise ConfigError(f"dropneuron: {nothing_ranked(net, run.example)}")
        scaled = [name for name, module in net.named_modules() if isinstance(module, _BatchNorm)]
        if scaled:
            raise ConfigError(
                f"dropneuron: {scaled[0]!r} normalises batches, so that the size of weights before it changes nothing; "
                "take the method 'slimming' for this network"
            )
        self._units = [(g, SumsAlong(net, g, g.written), SumsAlong(net, g, g.read)) for g in found]
        return Needs((Phase("train", share=self.until), Phase("tune", share=1 - self.until)))

    def loss(self, run: Run) -> Tensor | float:
        """0.1 (l1 Σ|w| + groups Σ (‖in‖₂ + ‖out‖₂))."""
        if run.phase.name != "train" or not self._units:
            return 0.0
        sizes = torch.stack([site.weight.abs().sum() for site in run.sites if site.kind == "weight"]).sum()
        ends = [sums.norms(run.net.net).sum() for _, into, out in self._units for sums in (into, out)]
        return SCALE * (self.l1 * sizes + self.groups * torch.stack(ends).sum())

    def decide(self, run: Run) -> Decision:
        """Switch off small units, and mask small weights, as the first phase ends."""
        if run.phase.name != "train":
            return Decision()
        off: dict[str, Tensor] = {}
        for group, *ends in self._units:
            least = torch.stack([sums.norms(run.net.net).detach().cpu() for sums in ends]).amin(0)
            gone = least <= self.threshold
            gone[least.argmax()] = False
            off |= dict.fromkeys(group.gates, gone)
        weights = {site.name: site.weight.detach() for site in run.sites if site.kind == "weight"}
        masks = {}
        for name, weight in weights.items():
            largest = weight.abs().flatten(1).amax(1).clamp(max=self.threshold)  # no row is left empty
            masks[name] = weight.abs() >= largest.view(-1, *[1] * (weight.dim() - 1))
        self._units = []
        return Decision(off=off, masks=masks)
