"""A budget on what a network may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bayesprune.arguments import checked_arguments
from bayesprune.checked import meant, real
from bayesprune.errors import ConfigError
from bayesprune.pruning import MEASURES


@checked_arguments
@dataclass(frozen=True)
class Budget:
    """At most this fraction of what the network costs at the start, with all gates on.

    Attributes:
        measure: ``"macs"`` (multiply-adds of one example), ``"params"`` (parameters) or ``"latency"`` (seconds of one
            pass of one example where the network trains).
        fraction: In (0, 1).

    Raises:
        ConfigError: for another measure or fraction.

    Examples:
        >>> Budget.parse("macs=0.4")
        Budget(measure='macs', fraction=0.4)
    """

    measure: str
    fraction: float

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            known, guess = ", ".join(sorted(MEASURES)), meant(self.measure, MEASURES)
            raise ConfigError(f"budget: unknown measure {self.measure!r}{guess}; known are {known}")
        what = "budget: the fraction of the starting cost"
        fraction = real(what, self.fraction, 0, 1, hint="macs=0.4 allows 40 % of the multiply-adds")
        object.__setattr__(self, "fraction", fraction)

    @classmethod
    @checked_arguments
    def parse(cls, text: str) -> Budget:
        """The budget written as ``MEASURE=FRACTION``, such as ``macs=0.4``.

        Raises:
            ConfigError: for anything else.
        """
        measure, equals, fraction = text.partition("=")
        try:
            value = float(fraction)
        except ValueError:
            value = math.nan
        if not equals or math.isnan(value):
            raise ConfigError(f"budget: expected MEASURE=FRACTION, for example macs=0.4, got {text!r}")
        return cls(measure.strip(), value)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.measure}={self.fraction:g}"
