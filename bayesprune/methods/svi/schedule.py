"""The phases of a run, and how far θ goes and what is measured in each: no knob but the length of the run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.graph import gates_in_a_row
from bayesprune.infer import BayesianNet
from bayesprune.layers import eval_mode
from bayesprune.methods.svi.settings import Settings
from bayesprune.optim.rates import arrival, reach, warmup_steps

FRACTIONS = "sample_from", "settle_from", "fine_tune_from", "slab_by"
"""The fields of `Schedule` that are fractions of a run."""
FEWEST = 4
"""How many evaluations there are while settling at least, in a run of one epoch too, if it has as many steps."""
LEAST_STEPS, LEAST_CHECKS = 8, 20
"""How many steps there are between two exact evaluations at least, where as many evaluations remain: each takes about
as long as a step of a small network."""
DEEP = 6
"""From how many gates in a row on a network is deep. LeNet-5 with gates on all that it computes has 4."""
UNIT = 1.0
"""How far weights have to go whose slab's scale is learned: that of standardised inputs and targets."""
DEFAULTS: dict[str, dict[str, float]] = {
    "point": {},
    "branches": {"settle_from": 0.25, "fine_tune_from": 0.5, "exact_share": 0.1},
    "deep": {"sample_from": 0.1, "settle_from": 0.1, "fine_tune_from": 0.3, "exact_share": 0.1},
    "frozen": {"settle_from": 0.35, "fine_tune_from": 0.7},
    "normal": {"sample_from": 0.3, "settle_from": 0.6, "fine_tune_from": 0.8},
    "fixed": {
        **{"sample_from": 0.3, "settle_from": 0.5, "fine_tune_from": 1.0},
        **{"checks_per_epoch": 1, "exact_share": 1.0},
    },
}
"""By posterior of the weights, ``deep`` for points in a network that `is_deep`, ``branches`` for points in another one
that has gated branches, ``frozen`` for points of which some rest, or ``fixed`` for a fixed prior of the gates, the
fields of `Schedule` that are not at default. Through many gates in a row hardly any signal passes while they are drawn
in the middle of their way, so a deep network does not sample: its gates begin at 1, where none is drawn, and settle as
soon as the learning rate is up, some at a time. In others a branch
is judged by a flip, which costs half a forward pass, where derivatives tell of all units at once, and depth is decided
when more is learnt; half of the run is left for the weights to find their place. Where
weights rest, they gain nothing by fine-tuning, and gates have to be the surer. With Normal weights gates are judged by
the evidence, which tells nothing before their variances have found their place. Under a fixed prior θ are
probabilities: they follow the weights to the end, and evaluations see all
examples of a small data set and several draws, as an error of half a nat moves a probability by 0.1."""
TEMPERED = {"slab_by": 0.5}
"""What is different at temperature 1, that of the evidence lower bound: the data are fitted first, and the divergence
takes half of the run to count in full. If it counts before the data are fitted, explaining nothing is a local optimum,
whatever the data say."""
SETTLED = 0.2
"""From which fraction of a run on probabilities under a fixed prior move at temperature 1, by exact differences alone:
while the divergence still rises, so that what is of no use goes before the divergence is dear, and what is left can
make up for it."""


@dataclass(frozen=True)
class Schedule:
    """Warm up, sample, settle, fine-tune.

    *Warm-up*: gates are drawn, θ rests. *Sampling*: θ follows an estimate of its gradient at every step. *Settling*:
    exact paired differences of all remaining gates, some times an epoch, take each θ to 0 or 1. *Fine-tuning*: θ rests,
    weights go on.

    Steps of θ are in units of its price: with no help from the data θ_s moves by η ρ_s a step, so the sum of η ρ over a
    phase is how far it can travel (method page, "A step size without a knob"). The default does not depend on N, batch
    size, epochs or γ.

    Args:
        epochs: Length of the run.
        steps_per_epoch: Optimisation steps of an epoch.
        sample_from: Fraction of the run after which sampling begins; unless it is 0, not before the learning rate has
            risen, so that no gate is judged by weights that have learnt nothing yet.
        settle_from: Fraction after which settling begins.
        fine_tune_from: Fraction after which fine-tuning begins.
        travel: How far the price alone takes θ during sampling, and during settling.
        last: Step size at the end of a phase relative to its start; it falls linearly.
        checks_per_epoch: Exact evaluations an epoch while settling, fewer in very short ones.
        exact_share: What exact differences may cost relative to all steps of the weights so far, in multiply-adds.
        slab_by: Fraction over which the divergence of Normal weights rises to count in full.

    Raises:
        ConfigError: for fewer than one epoch or step, numbers outside their range, or phases that are not in order.

    Examples:
        >>> schedule = Schedule(epochs=10, steps_per_epoch=20)
        >>> [schedule.phase(step) for step in (0, 20, 40, 80)]
        ['warm-up', 'sample', 'settle', 'fine-tune']
    """

    epochs: int
    steps_per_epoch: int
    sample_from: float = 0.05
    settle_from: float = 0.2
    fine_tune_from: float = 0.4
    travel: float = 5.0
    last: float = 0.1
    checks_per_epoch: int = 4
    exact_share: float = 0.05
    slab_by: float = 0.3

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "checks_per_epoch"):
            object.__setattr__(self, name, whole(f"Schedule: {name}", getattr(self, name)))
        for name in ("exact_share", "travel"):
            object.__setattr__(self, name, real(f"Schedule: {name}", getattr(self, name), 0))
        for name, ends in (("last", "(]"), *((name, "[]") for name in FRACTIONS)):
            object.__setattr__(self, name, real(f"Schedule: {name}", getattr(self, name), 0, 1, ends))
        if not self.sample_from <= self.settle_from <= self.fine_tune_from:
            raise ConfigError(
                "Schedule: expected 0 <= sample_from <= settle_from <= fine_tune_from <= 1, got "
                f"{self.sample_from}, {self.settle_from}, {self.fine_tune_from}"
            )

    @cached_property
    def steps(self) -> int:
        """Optimisation steps of the run."""
        return self.epochs * self.steps_per_epoch

    @cached_property
    def warmup(self) -> int:
        """Steps over which the learning rate rises, and before which no gate moves: 200, or a tenth of a short run."""
        return warmup_steps(self.steps)

    @cached_property
    def sample_start(self) -> int:
        """First step of sampling."""
        if self.sample_from == 0:
            return 0
        return min(max(round(self.sample_from * self.steps), self.warmup), self.settle_start)

    @cached_property
    def settle_start(self) -> int:
        """First step of settling."""
        return round(self.settle_from * self.steps)

    @cached_property
    def settle_end(self) -> int:
        """First step of fine-tuning."""
        return round(self.fine_tune_from * self.steps)

    @property
    def samples(self) -> bool:
        """Whether there is any sampling."""
        return self.sample_start < self.settle_start

    @cached_property
    def settle_every(self) -> int:
        """Steps between exact evaluations: 4 at least in the phase, 8 steps apart where that leaves 20 of them."""
        steps = self.settle_end - self.settle_start
        apart = min(self.steps_per_epoch // self.checks_per_epoch, steps // FEWEST)
        return max(1, apart, min(LEAST_STEPS, steps // LEAST_CHECKS))

    def phase(self, step: int) -> str:
        """``warm-up``, ``sample``, ``settle`` or ``fine-tune``."""
        if step < self.sample_start:
            return "warm-up"
        if step < self.settle_start:
            return "sample"
        return "settle" if step < self.settle_end else "fine-tune"

    def sampling_step(self, step: int) -> float:
        """η ρ at this step of sampling; they add up to ``travel``."""
        return self._falling(step - self.sample_start, self.settle_start - self.sample_start)

    def settling_step(self, step: int) -> float:
        """η ρ of the evaluation at this step of settling; they add up to ``travel``."""
        count = (self.settle_end - self.settle_start) // self.settle_every
        return self._falling((step - self.settle_start) // self.settle_every, count)

    def _falling(self, index: int, count: int) -> float:
        """Entry ``index`` of ``count`` numbers that fall linearly to ``last`` of the first and add up to ``travel``."""
        share = (index + 0.5) / max(1, count)
        return self.travel / max(1, count) * (1 - (1 - self.last) * share) / (0.5 * (1 + self.last))

    def sampling_done(self, step: int) -> float:
        """How much of sampling, or without it of settling, is over at this step: from 0 to 1, and on beyond its end."""
        end = self.settle_start if self.samples else self.settle_end
        return max(0.0, (step - self.sample_start) / max(1, end - self.sample_start))


def is_deep(net: BayesianNet) -> bool:
    """Whether weights are points and so many gates that are decided stand in a row that they cannot all be drawn."""
    if net.weights_posterior.name != "point" or not net.prior_type.decides:
        return False
    with eval_mode(net):
        return gates_in_a_row(net.traced) >= DEEP


def make_schedule(net: BayesianNet, epochs: int, steps_per_epoch: int, settings: Settings) -> Schedule:
    """The phases that suit a network, where nothing else was chosen.

    Args:
        net: The network.
        epochs: Length of the run.
        steps_per_epoch: Optimisation steps of an epoch.
        settings: How it is trained, with the fields of `Schedule` that were chosen.

    Raises:
        ConfigError: for a field that is none, and as `Schedule`.
    """
    chosen = settings.schedule
    unknown = chosen.keys() - ({field.name for field in fields(Schedule)} - {"epochs", "steps_per_epoch"})
    if unknown:
        raise ConfigError(f"fit: Settings.schedule has no field {sorted(unknown)[0]!r}; see training.Schedule")
    kind = net.weights_posterior.name if net.prior_type.decides else "fixed"
    learning = all(weight.requires_grad for weight in net.weights().values())
    if learning and is_deep(net):
        kind = "deep"
    elif kind == "point" and net.num_branches:
        kind = "branches"
    elif kind == "point" and not learning:
        kind = "frozen"
    defaults = {field.name: field.default for field in fields(Schedule) if field.name in FRACTIONS} | DEFAULTS[kind]
    tempered = net.weights_posterior.name == "normal" and settings.temperature >= 1
    if tempered:
        defaults |= TEMPERED
    if tempered and kind == "fixed" and not {"sample_from", "settle_from"} & chosen.keys():
        start = _arrival(net, epochs * steps_per_epoch, settings)
        defaults["settle_from"] = min(max(start, SETTLED), chosen.get("fine_tune_from", 1.0))
    phases = {**defaults, **_in_order(defaults, chosen), **chosen}
    if tempered and kind == "fixed" and "sample_from" not in chosen:
        phases["sample_from"] = phases["settle_from"]  # sampled gradients would take probabilities to corners
    return Schedule(epochs, steps_per_epoch, **phases)


def _arrival(net: BayesianNet, steps: int, settings: Settings) -> float:
    """After which fraction of a run Normal weights can have come where data want them, at a distance of σ0.

    Adam moves a weight by the learning rate in a step, at most. A gate that is judged before is judged by what its
    weights happened to be, and once it is off they learn no more.

    Args:
        net: The network.
        steps: Length of the run.
        settings: How it is trained.
    """
    learning = any(mean.requires_grad for mean in net.weights_posterior.means())
    if not learning or settings.optimizer is not torch.optim.Adam:
        return 0.0
    distance = net.slab_scale or UNIT
    step = arrival(distance, settings.lr, steps)
    if step is None:
        rate = settings.lr * distance / reach(settings.lr, steps)
        warnings.warn(
            f"fit: {steps} steps at lr={settings.lr:g} move a weight by {reach(settings.lr, steps):.2g} at most, less "
            f"than the slab's scale {distance:g}, so gates rest; train longer, or with lr={1.5 * rate:.1g} or more",
            stacklevel=2,
        )
        return 1.0
    return step / steps


def _in_order(defaults: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, float]:
    """Beginnings of phases that were not chosen, where those that were would leave them out of order.

    Between two that were chosen, the start and the end of the run, time is then stretched or shortened alike.

    Args:
        defaults: Where phases begin else.
        chosen: Fields that were chosen.
    """
    names = FRACTIONS[:3]
    fixed = {name: real(f"Schedule: {name}", chosen[name], 0, 1, "[]") for name in names if name in chosen}
    usual, now = [0.0, *(defaults[name] for name in fixed), 1.0], [0.0, *fixed.values(), 1.0]
    moved: dict[str, float] = {}
    places = [-1, *(names.index(name) for name in fixed), len(names)]
    for (before, after), (low, high) in zip(pairwise(places), pairwise(now), strict=True):
        between = names[before + 1 : after]
        if any(not low <= defaults[name] <= high for name in between):
            moved |= {name: float(np.interp(defaults[name], usual, now)) for name in between}
    return moved
