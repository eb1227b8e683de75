"""Runs of several cycles, each of which trains what is left from the initial weights."""

from __future__ import annotations

from bayesprune.errors import ConfigError
from bayesprune.methods.protocol.records import Phase


def cycles_of(called: str, cycles: int, epochs: int) -> tuple[Phase, ...]:
    """One phase a cycle; a shorter run has as many cycles as epochs.

    Args:
        called: The method, for messages.
        cycles: How many there are to be.
        epochs: Length of the run.

    Raises:
        ConfigError: if there is no second cycle, so that nothing would go.
    """
    if min(cycles, epochs) < 2:
        raise ConfigError(
            f"{called}: with cycles={cycles} and epochs={epochs} there is one cycle, and nothing goes after the last; "
            "give at least two of both, and better some epochs for each cycle"
        )
    return tuple(Phase(f"cycle {k + 1}", start="initial" if k else "current") for k in range(min(cycles, epochs)))
