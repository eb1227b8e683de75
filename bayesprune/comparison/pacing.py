"""How many epochs a run has: of those that compute no more than it may, the best for held-out data."""

from __future__ import annotations

import math
from collections.abc import Mapping

MOST = 10
"""In how many times the epochs of a dense run a smaller network may compute as much: the time of a step does not fall
as its multiply-adds do."""
NEAR, OVER = 0.05, 0.02
"""Which share of what it may compute a run may leave, and which it may take besides: lengths are whole epochs."""
ROUNDS = 5
"""After how many lengths the best of them does."""
LEAST_GROWTH = 0.25
"""In a longer run a method may prune earlier; that what it computes grows by less than this power is not believed."""
FAR, NEXT_TO = 2.0, 1.3
"""From how many times the length of a dense run on shorter ones are tried too, and up to which factor two lengths are
much the same."""


def first_length(epochs: int, compute: float) -> int:
    """The length of a dense run that computes so much.

    Args:
        epochs: That of a dense run.
        compute: What a run may take to compute, in units of a dense run.
    """
    return max(1, int(epochs * compute + 1e-9))


def length_of(size: float, epochs: int, compute: float) -> int:
    """How long a network may be trained that is small from the start on.

    Args:
        size: Its multiply-adds, relative to those of the dense network.
        epochs: Length of a dense run.
        compute: What a run may take to compute, in units of a dense run.
    """
    return first_length(epochs, compute / max(size, 1 / MOST))


def next_length(taken: Mapping[int, float], epochs: int, compute: float) -> int | None:
    """The length that is to be tried next; ``None`` where the longest so far that does not take too much will do.

    What a run takes grows with its length by a power, which the last two lengths tell: 1 where it prunes after the same
    share of every run, less where it prunes earlier in a longer one.

    Args:
        taken: By length, what a run took to compute, in units of a dense run, in the order in which they were tried;
            NaN if it came to nothing.
        epochs: Length of a dense run.
        compute: What a run may take.

    Examples:
        >>> next_length({}, epochs=20, compute=1.0), next_length({20: 0.5}, 20, 1.0), next_length({20: 0.98}, 20, 1.0)
        (20, 40, None)
    """
    if not taken:
        return first_length(epochs, compute)
    if len(taken) >= ROUNDS or any(map(math.isnan, taken.values())):
        return None
    low = _longest(taken, compute)
    above = [length for length in taken if not _fits(taken[length], compute)]
    high = min(above, default=length_of(0, epochs, compute) + 1)
    if low and (taken[low] >= (1 - NEAR) * compute or high - low <= 1):
        return None
    last = [*taken][-1]
    guess = int(last * (compute / taken[last]) ** (1 / _growth(taken)) + 1e-9)
    return min(guess, high - 1) if guess > low and high > 1 else None


def shorter_length(taken: Mapping[int, float], epochs: int, compute: float) -> int | None:
    """A length that is to be tried though longer ones fit: small networks may learn few examples by heart in those.

    Where the longest is at least `FAR` times that of a dense run, these are the dense run's and the geometric mean of
    both; ``None`` where lengths near them were tried.

    Args:
        taken: As for `next_length`, which is through.
        epochs: As for `next_length`.
        compute: As for `next_length`.

    Examples:
        >>> shorter_length({20: 0.1, 180: 0.98}, 20, 1.0), shorter_length({20: 0.6, 33: 0.99}, 20, 1.0)
        (60, None)
    """
    first, longest = first_length(epochs, compute), _longest(taken, compute)
    if longest < FAR * first:
        return None
    shorter = first, round(math.sqrt(first * longest))
    return next((length for length in shorter if all(not _near(length, other) for other in taken)), None)


def best_length(taken: Mapping[int, float], losses: Mapping[int, float], compute: float) -> int:
    """Of the lengths that took no more than a run may, but for `OVER`, the one with the lowest loss; 0 if none did.

    Args:
        taken: As for `next_length`.
        losses: By length, the loss on held-out data, nats per example.
        compute: What a run may take.

    Examples:
        >>> best_length({20: 0.5, 40: 1.0, 80: 2.0}, {20: 0.2, 40: 0.3, 80: 0.1}, compute=1.0)
        20
    """
    fit = [length for length, took in taken.items() if _fits(took, compute) and not math.isnan(losses[length])]
    return min(fit, key=lambda length: (losses[length], length), default=0)


def _longest(taken: Mapping[int, float], compute: float) -> int:
    """The longest of some lengths that took no more than a run may, but for `OVER`; 0 if none did."""
    return max((length for length, took in taken.items() if _fits(took, compute)), default=0)


def _near(one: int, other: int) -> bool:
    """Whether two lengths are much the same."""
    return max(one, other) < NEXT_TO * min(one, other)


def _growth(taken: Mapping[int, float]) -> float:
    """The power of its length by which a run takes more to compute, by the last two."""
    if len(taken) < 2:
        return 1.0
    (one, took), (other, other_took) = [*taken.items()][-2:]
    return min(max(math.log(other_took / took) / math.log(other / one), LEAST_GROWTH), 1.0)


def _fits(took: float, compute: float) -> bool:
    """Whether a run took no more than it may, but for `OVER`."""
    return took <= (1 + OVER) * compute
