"""How the learning rate of the weights goes over a run: a short rise, then half a cosine to 0."""

from __future__ import annotations

from math import cos, pi

WARMUP = 200
"""Steps over which it rises in a run that is not short."""


def warmup_steps(steps: int) -> int:
    """Over how many of so many steps it rises: 200, or a tenth of a short run."""
    return min(WARMUP, max(1, steps // 10))


def learning_rate(step: int, steps: int) -> float:
    """The factor on the peak learning rate.

    Args:
        step: A step, from 0.
        steps: How many there are.
    """
    return min(1.0, (step + 1) / warmup_steps(steps)) * 0.5 * (1 + cos(pi * step / steps))
