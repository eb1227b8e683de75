"""The three phases of a run and the step size of θ in each: no knob but the length of the run."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from bayesprune.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Sample, settle, fine-tune.

    *Sampling*: gates are drawn every step and θ follows an estimate of its gradient at every step. *Settling*: exact paired differences
    of all remaining gates, `checks_per_epoch` times an epoch, take each θ to 0 or 1. *Fine-tuning*: θ rests, weights go on.

    Steps of θ are in units of its price: with no help from the data θ_s moves by η ρ_s a step, so the sum of η ρ over a phase is how far it may travel
    (method page, section "A step size without a knob").

    Args:
        epochs: Length of the run.
        steps_per_epoch: Optimisation steps of an epoch.
        sample: Fraction of the run that is sampling.
        settle: Fraction of the run that is settling.
        travel: How far the price alone takes θ during a phase.
        last: Step size at the end of a phase relative to its start; it falls linearly.
        checks_per_epoch: Exact evaluations an epoch while settling.
        settle_batches: Batches of each evaluation.

    Raises:
        ConfigError: for fewer than one epoch or step, or fractions that do not fit.
    """

    epochs: int
    steps_per_epoch: int
    sample: float = 0.5
    settle: float = 0.3
    travel: float = 6.0
    last: float = 0.05
    checks_per_epoch: int = 8
    settle_batches: int = 8

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.steps_per_epoch < 1:
            raise ConfigError(f"Schedule: a run needs at least one epoch of one step, got {self.epochs} of {self.steps_per_epoch}")
        if not (0 <= self.sample and 0 <= self.settle and self.sample + self.settle <= 1):
            raise ConfigError(f"Schedule: sample and settle are fractions of one run, got {self.sample} and {self.settle}")

    @property
    def steps(self) -> int:
        """Optimisation steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def sample_end(self) -> int:
        """First step after sampling."""
        return round(self.sample * self.steps)

    @property
    def settle_end(self) -> int:
        """First step after settling."""
        return round((self.sample + self.settle) * self.steps)

    def phase(self, step: int) -> str:
        """``sample``, ``settle`` or ``fine-tune``."""
        if step < self.sample_end:
            return "sample"
        return "settle" if step < self.settle_end else "fine-tune"

    @property
    def settle_every(self) -> int:
        """Steps between exact evaluations."""
        return max(1, self.steps_per_epoch // self.checks_per_epoch)

    def sampling_step(self, step: int) -> float:
        """η ρ at this step of the sampling phase; they add up to ``travel``."""
        return self._step(step, self.sample_end)

    def settling_step(self, step: int) -> float:
        """η ρ of the evaluation at this step of the settling phase; they add up to ``travel``."""
        return self._step((step - self.sample_end) // self.settle_every, (self.settle_end - self.sample_end) // self.settle_every)

    def _step(self, index: int, count: int) -> float:
        falling = 1 - (1 - self.last) * index / max(1, count)
        return self.travel / max(1, count) * falling / (0.5 * (1 + self.last))

    def learning_rate(self, step: int, warmup: int = 200) -> float:
        """Factor on the weights' learning rate: linear warm-up, then half a cosine down to 0."""
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + cos(pi * step / self.steps))
