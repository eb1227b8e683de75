"""The learning rate of the weights over a run, whatever the method."""

from __future__ import annotations

from math import cos, pi

WARMUP = 200
"""Steps over which the learning rate rises in a run that is not short."""
FALL = 0.3
"""Over which last share of the steps `second_rate` falls."""


def warmup_steps(steps: int) -> int:
    """Over how many of the ``steps`` of a run the learning rate rises: 200, or a tenth of a short run."""
    return min(WARMUP, max(1, steps // 10))


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Factor on the peak learning rate: a linear rise, times half a cosine to 0.

    Args:
        step: The step, from 0.
        steps: How many there are.
        warmup: Over how many of them it rises, see `warmup_steps`.
    """
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + cos(pi * step / steps))


def second_rate(step: int, steps: int, warmup: int) -> float:
    """Factor on the peak learning rate after a second rise, which is linear: 1, and in the end a linear fall to 0.

    Args:
        step: The step, from 0 where the rate rises again.
        steps: How many there are from there on.
        warmup: Over how many of them it rises, see `warmup_steps`.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / (FALL * steps))


def reach(rate: float, steps: int) -> float:
    """How far Adam, whose steps are as long as the learning rate at most, can move a weight in a run.

    Args:
        rate: The peak learning rate.
        steps: Length of the run, with one rise and fall of the rate, see `learning_rate`.
    """
    return rate * sum(learning_rate(step, steps, warmup_steps(steps)) for step in range(steps))


def arrival(distance: float, rate: float, steps: int) -> int | None:
    """The first step before which Adam can have moved a weight so far; ``None`` if the run is too short.

    Args:
        distance: How far.
        rate: As for `reach`.
        steps: As there.
    """
    gone = 0.0
    for step in range(steps):
        if gone >= distance:
            return step
        gone += rate * learning_rate(step, steps, warmup_steps(steps))
    return None
