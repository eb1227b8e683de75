"""When a run looks after its Normal weights, and how much of their divergence from the prior counts meanwhile."""

from __future__ import annotations

from bayesprune.methods.protocol.ranking import whole_part
from bayesprune.methods.svi.schedule import Schedule

SCALE_STEPS = 1000
"""So many steps log σ of Normal weights takes in a run that is long enough, before it takes rarer ones to save time."""
RAREST = 4
"""How rare they become at most: one for so many opportunities of θ to step."""
REFRESH_EVERY = 8
"""Steps between two updates of the divergence of Normal weights at least: one takes as long as a step."""
COUNTS = 10
"""How often a run counts the parameters that a fit has taken, about: a count may take as long as many steps."""


def divergence_share(schedule: Schedule, step: int) -> float:
    """How much of the divergence counts at this step: it rises from 0 to 1 in ``slab_by`` of the run.

    Args:
        schedule: The phases of the run.
        step: A step of the weights.
    """
    return min(1.0, (step + 1) / max(1.0, schedule.slab_by * schedule.steps))


def scales_due(schedule: Schedule, step: int, every: int) -> bool:
    """Whether log σ takes a step with this step of the weights.

    Args:
        schedule: The phases of the run.
        step: A step of the weights.
        every: At every so-many-th of them θ may step.
    """
    return step % (every * min(RAREST, max(1, schedule.steps // (every * SCALE_STEPS)))) == 0


def divergence_due(schedule: Schedule, step: int) -> bool:
    """Whether the divergence is to follow the weights after this step, an epoch not being over.

    Args:
        schedule: The phases of the run.
        step: A step of the weights.
    """
    done = step + 1
    return done % max(REFRESH_EVERY, schedule.settle_every) == 0 and done % schedule.steps_per_epoch != 0


def count_due(schedule: Schedule, epoch: int) -> bool:
    """Whether the parameters that the fit has taken are to be counted after this epoch, others being to come.

    Args:
        schedule: The phases of the run.
        epoch: An epoch, from 0.
    """
    first = min(whole_part(schedule.slab_by, schedule.epochs), schedule.epochs - 2)
    last = schedule.epochs - 1
    return first <= epoch < last and (epoch - first) % max(1, (schedule.epochs - first) // COUNTS) == 0
