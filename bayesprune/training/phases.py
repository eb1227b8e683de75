"""The phases of a run as epochs, and where in them the learning rate is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Phase
from bayesprune.optim.rates import learning_rate, warmup_steps


@dataclass(frozen=True)
class Stretch:
    """The epochs of a phase.

    Attributes:
        phase: The phase.
        begin: Its first epoch, from 0.
        end: The one after its last.
        rate_begin: The epoch in which the schedule of the learning rate began that it is in.
        rate_end: The one in which that is over.
    """

    phase: Phase
    begin: int
    end: int
    rate_begin: int
    rate_end: int

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The factor on the peak learning rate.

        Args:
            step: A step of the run, from 0.
            steps_per_epoch: Steps of an epoch.
        """
        steps = (self.rate_end - self.rate_begin) * steps_per_epoch
        return self.phase.lr * learning_rate(step - self.rate_begin * steps_per_epoch, steps, warmup_steps(steps))

    def decides(self, done: int) -> bool:
        """Whether a decision is due after so many epochs of the run."""
        every = self.phase.decide_every
        return done == self.end or (every is not None and (done - self.begin) % every == 0)


def stretches(phases: Sequence[Phase], epochs: int) -> list[Stretch]:
    """Divide the epochs of a run among phases, by their shares.

    Args:
        phases: The phases, in their order.
        epochs: Length of the run.

    Raises:
        ConfigError: if a phase would have no epoch.
    """
    total, done, ends = sum(phase.share for phase in phases), 0.0, [0]
    for phase in phases:
        done += phase.share
        ends.append(round(epochs * done / total))
    if any(first >= last for first, last in pairwise(ends)):
        names = ", ".join(phase.name for phase in phases)
        raise ConfigError(f"fit: {epochs} epochs are too few for the phases {names}, each of which needs at least one")
    begins = [k for k, phase in enumerate(phases) if k == 0 or phase.restart] + [len(phases)]
    found = []
    for k, phase in enumerate(phases):
        first = max(b for b in begins if b <= k)
        last = min(b for b in begins if b > k)
        found.append(Stretch(phase, ends[k], ends[k + 1], ends[first], ends[last]))
    return found
