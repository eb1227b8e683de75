"""The phases of a run and the step size of θ in each: no knob but the length of the run."""

from __future__ import annotations

from dataclasses import dataclass

from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.optim.rates import learning_rate, warmup_steps

PRICES_PER_PHASE = 20
"""How often prices follow the cost during sampling at least, if it has as many steps."""
SCALE_STEPS = 1000
"""So many steps log σ of Normal weights takes in a run that is long enough, before it takes rarer ones to save time."""
RAREST = 4
"""How rare they become at most: one for so many opportunities of θ to step."""
REFRESH_EVERY = 8
"""Steps between two looks at the divergence of Normal weights at least: one takes as long as a step."""
COUNTS = 10
"""How often a run counts the parameters that a fit has taken, about: a count may take as long as many steps."""
BUDGET_BY = 0.8
"""After which share of sampling a budget is to be met."""
FRACTIONS = "sample_from", "settle_from", "fine_tune_from", "slab_by"
"""The fields of `Schedule` that are fractions of a run."""
PHASES: dict[str, dict[str, float]] = {
    "point": {},
    "normal": {"slab_by": 0.3, "sample_from": 0.3, "settle_from": 0.6, "fine_tune_from": 0.8},
    "fixed": {
        **{"slab_by": 0.3, "sample_from": 0.3, "settle_from": 0.5, "fine_tune_from": 1.0},
        **{"checks_per_epoch": 1, "settle_batches": 32, "settle_draws": 4, "settle_share": 2.0},
    },
}
"""By kind of slab, or ``fixed`` for a fixed prior of the gates, the fields of `Schedule` that are not at default.
With Gaussian slabs gates are judged by the evidence, which tells nothing before the weights' variances have found their
place. Under a fixed prior θ are probabilities: they follow the weights to the end, and evaluations see all examples of
a small data set and several draws, as an error of half a nat moves a probability by 0.1."""


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
        checks_per_epoch: Exact evaluations an epoch while settling.
        settle_batches: Batches of each evaluation at most, see `batches_to_measure`.
        settle_draws: Passes of each evaluation at least: each of few batches is measured with several draws.
        settle_share: What the flips of branches in exact evaluations may cost relative to the steps of the weights.
        slab_by: Fraction over which the divergence of Normal weights rises to count in full.

    Raises:
        ConfigError: for fewer than one epoch or step, numbers outside their range, or phases that are not in order.
    """

    epochs: int
    steps_per_epoch: int
    sample_from: float = 0.05
    settle_from: float = 0.35
    fine_tune_from: float = 0.7
    travel: float = 5.0
    last: float = 0.1
    checks_per_epoch: int = 4
    settle_batches: int = 8
    settle_draws: int = 1
    settle_share: float = 0.2
    slab_by: float = 0.3

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "checks_per_epoch", "settle_batches", "settle_draws"):
            object.__setattr__(self, name, whole(f"Schedule: {name}", getattr(self, name)))
        for name in ("settle_share", "travel"):
            object.__setattr__(self, name, real(f"Schedule: {name}", getattr(self, name), 0))
        for name, ends in (("last", "(]"), *((name, "[]") for name in FRACTIONS)):
            object.__setattr__(self, name, real(f"Schedule: {name}", getattr(self, name), 0, 1, ends))
        if not self.sample_from <= self.settle_from <= self.fine_tune_from:
            raise ConfigError(
                "Schedule: expected 0 <= sample_from <= settle_from <= fine_tune_from <= 1, got "
                f"{self.sample_from}, {self.settle_from}, {self.fine_tune_from}"
            )

    @property
    def steps(self) -> int:
        """Optimisation steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises, and before which no gate moves: 200, or a tenth of a short run."""
        return warmup_steps(self.steps)

    @property
    def sample_start(self) -> int:
        """First step of sampling."""
        if self.sample_from == 0:
            return 0
        return min(max(round(self.sample_from * self.steps), self.warmup), self.settle_start)

    @property
    def settle_start(self) -> int:
        """First step of settling."""
        return round(self.settle_from * self.steps)

    @property
    def settle_end(self) -> int:
        """First step of fine-tuning."""
        return round(self.fine_tune_from * self.steps)

    @property
    def settle_every(self) -> int:
        """Steps between exact evaluations."""
        return max(1, self.steps_per_epoch // self.checks_per_epoch)

    def batches_to_measure(self, shared: int) -> int:
        """How many batches an exact evaluation takes: ``settle_batches``, or fewer where that would cost too much.

        A batch costs a forward pass, and on average half a one for each gate that a batch shares; a step costs three.

        Args:
            shared: Number of gates that a batch shares.
        """
        return min(self.settle_batches, self.settle_every, self._most_passes(shared))

    def draws_to_measure(self, shared: int) -> int:
        """With how many draws of gates and weights an exact evaluation measures each of its batches.

        Args:
            shared: Number of gates that a batch shares.
        """
        return max(1, min(self.settle_draws, self._most_passes(shared)) // self.batches_to_measure(shared))

    def _most_passes(self, shared: int) -> int:
        """How often an exact evaluation may measure a batch without costing too much."""
        steps = (1 + shared / 2) / 3
        return max(1, int(self.settle_share * self.settle_every / steps))

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

    def prices_due(self, step: int) -> bool:
        """Whether prices are to follow the cost after this step of sampling: some times an epoch, and in the phase."""
        length = self.settle_start - self.sample_start
        every = max(1, min(self.settle_every, length // PRICES_PER_PHASE))
        return self.phase(step) == "sample" and (step - self.sample_start) % every == 0

    def budget_share(self, step: int) -> float:
        """How far a target cost has come down to its budget by this step: from 0 to 1 over most of sampling."""
        done = (step - self.sample_start) / max(1, self.settle_start - self.sample_start)
        return min(1.0, max(0.0, done) / BUDGET_BY)

    def price_factor(self, step: int) -> float:
        """Factor on prices that follow the cost: from a fifth to 1 over the first half of sampling."""
        done = (step - self.sample_start) / max(1, self.settle_start - self.sample_start)
        return min(1.0, 0.2 + 0.8 * max(0.0, done) / 0.5)

    def scales_due(self, step: int, every: int) -> bool:
        """Whether log σ of Normal weights takes a step with this step of the weights.

        Args:
            step: A step of the weights.
            every: At every so-many-th of them θ may step.
        """
        return step % (every * min(RAREST, max(1, self.steps // (every * SCALE_STEPS)))) == 0

    def refresh_due(self, step: int) -> bool:
        """Whether the divergence of Normal weights is to be looked at after this step, an epoch not being over."""
        done = step + 1
        return done % max(REFRESH_EVERY, self.settle_every) == 0 and done % self.steps_per_epoch != 0

    def freedom_due(self, epoch: int) -> bool:
        """Whether the parameters that the fit has taken are to be counted after this epoch, others being to come."""
        first = min(int(self.slab_by * self.epochs), self.epochs - 2)
        return first <= epoch < self.epochs - 1 and (epoch - first) % max(1, (self.epochs - first) // COUNTS) == 0

    def slab_share(self, step: int) -> float:
        """How much of the divergence of Normal weights counts at this step: rises from 0 to 1 in ``slab_by``."""
        return min(1.0, (step + 1) / max(1.0, self.slab_by * self.steps))

    def learning_rate(self, step: int) -> float:
        """Factor on the weights' learning rate: linear warm-up (at most a tenth of the run), half a cosine to 0."""
        return learning_rate(step, self.steps, self.warmup)
