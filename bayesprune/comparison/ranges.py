"""What may be tuned of a method, written down beforehand, and the trials that are drawn of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayesprune.checked import real
from bayesprune.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, whole ones if both are.

    Attributes:
        low: The least.
        high: The largest.
        log: Whether their logarithms are drawn evenly.

    Examples:
        >>> Range(1e-4, 1e-2, log=True).at(0.5)
        0.001
    """

    low: float
    high: float
    log: bool = False

    def at(self, place: float) -> float:
        """The number at a place between 0 and 1, to six digits, as a settings file would say it."""
        low, high = self.low, self.high
        value = low * (high / low) ** place if self.log else low + (high - low) * place
        return round(value) if isinstance(low, int) and isinstance(high, int) else float(f"{value:.6g}")


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        values: The values.

    Examples:
        >>> Choice(("example", "all")).at(0.7)
        'all'
    """

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """The value at a place between 0 and 1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]


Ranges = Mapping[str, Range | Choice]
"""By name of an option, what it may be."""


def read_range(where: str, given: object) -> Range | Choice:
    """A range as a settings file says it: a table of ``low``, ``high`` and maybe ``log``, or a list of values.

    Args:
        where: Where it stands, for messages.
        given: What stands there.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(given, list) and given:
        return Choice(tuple(given))
    if not isinstance(given, dict) or not {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
        raise ConfigError(
            f"{where}: expected {{low = ..., high = ...}}, maybe with log = true, or a list of values; got {given!r}"
        )
    low, high, log = real(f"{where}.low", given["low"]), real(f"{where}.high", given["high"]), given.get("log", False)
    if not isinstance(log, bool) or high <= low or (log and low <= 0):
        raise ConfigError(f"{where}: expected low < high, log true or false, and 0 < low with it; got {given!r}")
    return Range(given["low"], given["high"], log)


def trials(ranges: Ranges, count: int, seed: int) -> list[dict[str, Any]]:
    """The options of each trial: the defaults, which are none, and then points of a scrambled Sobol sequence.

    Args:
        ranges: What may be drawn; where nothing may, the defaults are all that can be tried, once.
        count: How many trials there are.
        seed: Of the sequence.

    Examples:
        >>> trials({"share": Range(0.0, 1.0)}, count=2, seed=0)[0]
        {}
    """
    from torch.quasirandom import SobolEngine

    names = sorted(ranges)
    drawn = SobolEngine(len(names), scramble=True, seed=seed).draw(count - 1).tolist() if names and count > 1 else []
    return [{}, *({name: ranges[name].at(place) for name, place in zip(names, point, strict=True)} for point in drawn)]
