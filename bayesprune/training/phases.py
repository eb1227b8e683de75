"""The phases of a run as epochs, and where in them the learning rate is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Phase
from bayesprune.optim.rates import learning_rate, second_rate, warmup_steps
from bayesprune.schema import require


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
        begin, end, factor = self.rate_begin * steps_per_epoch, self.rate_end * steps_per_epoch, learning_rate
        again = self.again(steps_per_epoch)
        if again is not None and step >= again:
            begin, factor = again, second_rate
        return self.phase.lr * factor(step - begin, end - begin, warmup_steps(end - begin))

    def again(self, steps_per_epoch: int) -> int | None:
        """The step of the run in which the learning rate begins to rise a second time, if it does."""
        if self.phase.rise_again is None:
            return None
        return self.begin * steps_per_epoch + round(self.phase.rise_again * ((self.end - self.begin) * steps_per_epoch))

    def decides(self, done: int) -> bool:
        """Whether a decision is due after so many epochs of the run."""
        every = self.phase.decide_every
        return done == self.end or (every is not None and (done - self.begin) % every == 0)


class Timetable:
    """The phases of a run as epochs, of which a method may end one early.

    Args:
        phases: The phases, in their order; the epochs are divided by their shares.
        epochs: Length of the run, if no phase ends early.

    Attributes:
        epochs: Length of the run, if no phase ends early.
        stops: The epochs after which phases were ended early, counted from the beginning.
        stretches: The epochs of each phase.

    Raises:
        ConfigError: if a phase would have no epoch.
    """

    def __init__(self, phases: Sequence[Phase], epochs: int):
        self.phases, self.epochs = phases, epochs
        self.stops: list[int] = []
        total, done, self._ends = sum(phase.share for phase in phases), 0.0, [0]
        for phase in phases:
            done += phase.share
            self._ends.append(round(epochs * done / total))
        if any(first >= last for first, last in pairwise(self._ends)):
            names = ", ".join(phase.name for phase in phases)
            raise ConfigError(
                f"fit: epochs={epochs} is too short a run for the phases {names}, each of which needs at least one"
            )
        self.stretches = _stretches(phases, self._ends)

    @property
    def length(self) -> int:
        """Length of the run."""
        return self._ends[-1]

    def at(self, done: int) -> Stretch:
        """Where the epoch is that comes after so many."""
        return next(stretch for stretch in self.stretches if done < stretch.end)

    def stop(self, done: int) -> None:
        """End the phase after so many epochs of the run, if it does not end there by itself; others keep their length.

        The learning rate of phases that share a schedule goes on as if it had been made for the shorter run.
        """
        if done in self._ends:
            return
        self.stops.append(done)
        early = self.at(done).end - done
        self._ends = [end if end < done else end - early for end in self._ends]
        self.stretches = _stretches(self.phases, self._ends)

    def load(self, stops: Sequence[int]) -> None:
        """Take up the stops of a checkpoint.

        Raises:
            Mismatch: if there cannot have been such ones.
        """
        for done in stops:
            require(0 < done < self.length, "stops", f"epochs before the last, {self.length}", done)
            self.stop(done)


def _stretches(phases: Sequence[Phase], ends: Sequence[int]) -> list[Stretch]:
    """The epochs of each phase.

    Args:
        phases: The phases, in their order.
        ends: The first epoch of the run, and the one after the last of each phase.
    """
    begins = [k for k, phase in enumerate(phases) if k == 0 or phase.restart] + [len(phases)]
    found = []
    for k, phase in enumerate(phases):
        first = max(b for b in begins if b <= k)
        last = min(b for b in begins if b > k)
        found.append(Stretch(phase, ends[k], ends[k + 1], ends[first], ends[last]))
    return found
