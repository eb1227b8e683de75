"""Means over seeds with their intervals, and differences between methods that are paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayesprune.comparison.goals import OURS
from bayesprune.comparison.rows import Row

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and an interval for it.

    Attributes:
        mean: The mean.
        half: Half the width of the interval; infinite for one value, NaN for none.
        count: Of how many values.

    Examples:
        >>> Interval(0.5, 0.25, 3).low
        0.25
    """

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """Its lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.half


def interval(values: Sequence[float]) -> Interval:
    """The mean of values and the interval that holds their law's with probability 0.95, if that is Normal: by Student.

    Args:
        values: Independent values.
    """
    from scipy.special import stdtrit  # slow to import

    count = len(values)
    if count == 0:
        return Interval(math.nan, math.nan, 0)
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, math.inf, 1)
    deviation = float(np.std(values, ddof=1))
    return Interval(mean, float(stdtrit(count - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(count), count)


@dataclass(frozen=True)
class Line:
    """What the runs of one method that differ in their seeds alone came to.

    Attributes:
        task: The network and the data.
        method: The method.
        measure: What the goal is about.
        share: The goal.
        compute: What they were allowed to take to compute.
        accuracy: Of all that have one: those that came to something, and at that of guessing those that diverged,
            missed the goal or took too much.
        behind: How much less accurate than ours, seed by seed; ``None`` where ours has no such goal, or where a run of
            either has no accuracy.
        rows: The rows.
    """

    task: str
    method: str
    measure: str
    share: float
    compute: float
    accuracy: Interval
    behind: Interval | None
    rows: tuple[Row, ...]

    def mean(self, name: str) -> float:
        """The mean of a field of the rows that came to something; NaN if none did."""
        values = [getattr(row, name) for row in self.rows if not row.error]
        return float(np.mean(values)) if values else math.nan

    @property
    def failed(self) -> int:
        """How many rows came to nothing."""
        return sum(bool(row.error) for row in self.rows)

    @property
    def comparable(self) -> bool:
        """Whether every run has an accuracy, so that the mean does not leave out the seeds that were hard."""
        return self.accuracy.count == len(self.rows)


def lines(rows: Sequence[Row]) -> list[Line]:
    """One line a method and goal, the most accurate of a goal first, those that are not comparable last.

    Args:
        rows: Those of the test stage.
    """
    cells: dict[tuple[str, str, float, float], dict[str, list[Row]]] = {}
    for row in rows:
        cells.setdefault(row.cell, {}).setdefault(row.method, []).append(row)
    found = []
    for (task, measure, share, compute), methods in cells.items():
        ours = {row.seed: row.accuracy for row in methods.get(OURS, ())}
        here = [
            Line(
                *(task, method, measure, share, compute),
                interval([row.accuracy for row in its if not math.isnan(row.accuracy)]),
                _behind(its, ours) if ours and method != OURS else None,
                tuple(its),
            )
            for method, its in methods.items()
        ]
        found += sorted(here, key=_place)
    return found


def _place(line: Line) -> tuple[bool, bool, float]:
    """Where a line stands among those of its goal."""
    mean = line.accuracy.mean
    return not line.comparable, math.isnan(mean), -mean


def _behind(rows: Sequence[Row], ours: dict[int, float]) -> Interval | None:
    """How much less accurate rows are than ours of the same seeds; ``None`` if one of either has no accuracy."""
    differences = [ours[row.seed] - row.accuracy for row in rows if row.seed in ours]
    return None if any(map(math.isnan, differences)) else interval(differences)
