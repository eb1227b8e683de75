"""L0 regularisation: units and filters are multiplied by hard-concrete numbers, many of which are 0 (Louizos 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.distributions.hard_concrete import hard_concrete, not_zero
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Decision, Needs, Run, Site, Value
from bayesprune.methods.protocol.along import Along, all_along
from bayesprune.methods.protocol.structures import Ranked

LEAST, MOST = math.log(1e-2), math.log(1e2)
"""Between which log α is kept."""


class HardConcrete(Ranked):
    """Multiplies each unit or filter by z, which is 0 with a probability that is learned; the least probable go.

    z = clip(s (ζ − γ) + γ, 0, 1), s = σ((logit u + log α) / β), one u ~ Uniform(0, 1) a structure and step, multiplies
    what reads the structure. The loss has penalty / N Σ P(z ≠ 0) times the number of these weights more. In eval mode
    z is clip(σ(log α) (ζ − γ) + γ, 0, 1). After ``until`` the structures of the least log α go, and the weights that
    read those that are left are multiplied by their z for good.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.
        penalty: λ, nats for every weight that is expected to be there.
        drop: With what probability the concrete number is below ½ as the run begins.
        rate: How many times as fast as weights log α moves.

    Raises:
        ConfigError: as `Ranked`, for a negative penalty, or a ``drop`` outside (0, 1); and before training, if what
            reads the structures that can go has no weights along them.

    Examples:
        >>> HardConcrete(drop=0.3).options()["penalty"]
        0.1

    Sources:
        Louizos, Welling & Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization", equations 10 to 13;
        constants, the interval of log α and that z multiplies inputs are those of its code. Ours: z of filters
        multiplies what reads them as well, a target of multiply-adds decides how many go, the rate (1 there, in runs
        of 200 epochs), and that what is left trains on.
    """

    name: ClassVar[str] = "l0"
    lacks: ClassVar[str] = "what reads the units or filters that have gates has no weights along them; take taylor, say"

    @checked_arguments
    def __init__(
        self,
        macs: float = 0.5,
        layerwise: bool = False,
        until: float = 0.5,
        penalty: float = 0.1,
        drop: float = 0.5,
        rate: float = 10.0,
    ):
        super().__init__(macs, layerwise, until)
        self.penalty = real("l0: penalty", penalty, 0, ends="[)")
        self.drop = real("l0: drop", drop, 0, 1)
        self.rate = real("l0: rate", rate, 0)
        self._along: Along | None = None

    def may_go(self, net: nn.Module, group: Group) -> bool:
        """Whether every layer that reads the structures has a weight along them."""
        return all_along(net, group, "in")

    def setup(self, run: Run) -> Needs:
        """As `Ranked`, with log α / rate for every structure, and views of weights."""
        needs = super().setup(run)
        net = run.net.net
        found = self.ranked(net, run.example)
        self._along = Along(net, found, "in")
        device = run.net.theta.device
        self.weights = self._along.weights.to(device)
        start = math.log(1 - self.drop) - math.log(self.drop)
        noise = 1e-2 * torch.randn(len(self.weights), generator=run.generator)
        self.slow = nn.Parameter(((start + noise) / self.rate).to(device))
        self._z: Tensor | None = None
        return Needs(needs.phases, views=frozenset({"weight"}))

    @property
    def log_alpha(self) -> Tensor:
        """The logarithm of α of every structure."""
        return self.rate * self.slow

    def _drawing(self, run: Run) -> bool:
        """Whether structures are multiplied by z: until some go."""
        return self._along is not None and run.phase.name == "train"

    def objective(self, run: Run) -> Value:
        """The objective with one z for the whole batch."""
        if self._drawing(run):
            u = torch.rand(len(self.slow), generator=run.generator).to(self.slow.device)
            self._z = hard_concrete(self.log_alpha, u)
        try:
            return super().objective(run)
        finally:
            self._z = None

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """The weights that read structures, times z."""
        if self._along is None or not self._drawing(run) or site.name not in self._along:
            return value
        return self._along(site.name, value, hard_concrete(self.log_alpha) if self._z is None else self._z)

    def loss(self, run: Run) -> Tensor | float:
        """λ / N Σ P(z ≠ 0) times the number of weights."""
        if not self._drawing(run):
            return 0.0
        return self.penalty / run.net.num_data * (not_zero(self.log_alpha) * self.weights).sum()

    def stepped(self, run: Run) -> None:
        """Keep log α in its interval."""
        self.slow.clamp_(LEAST / self.rate, MOST / self.rate)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """The logarithm of α of each structure."""
        return list(self.log_alpha.detach().cpu().split([group.size for group in found]))

    def decide(self, run: Run) -> Decision:
        """Switch off as `Ranked`, and let weights be what they are times z; from here on z is 1."""
        decision = super().decide(run)
        if self._along is not None and run.phase.name == "train":
            z = hard_concrete(self.log_alpha.detach())
            named = {site.name: site.weight.detach() for site in run.sites if site.kind == "weight"}
            decision.assign = {name: self._along(name, w, z) for name, w in named.items() if name in self._along}
            self._along = None
        return decision
