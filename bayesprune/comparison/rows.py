"""One line a run: what it ended with, or why it came to nothing."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bayesprune.atomic import file_errors, write_atomically
from bayesprune.comparison.runs import Run
from bayesprune.errors import CheckpointError

PLAN, MACHINE, ROW = "plan.json", "machine.json", "row.json"
"""What is compared and where, in the folder of a comparison, and what came of a run, in its own."""
MEASURED = ("cpu_seconds", "peak_mib", "ms_of_1", "ms_of_256")
"""What differs between two times that the same run is made."""


@dataclass(frozen=True)
class Row:
    """What a run ended with. What is left is that of the compacted network; figures are NaN where a run has none.

    Attributes:
        stage: ``"tuning"``, ``"pacing"`` or ``"test"``.
        task: The network and the data.
        method: What it was trained by.
        measure: What the goal is about: ``"macs"``, ``"weights"`` or ``"free"``.
        share: The goal.
        compute: What it was allowed to take to compute, in units of a dense run.
        seed: Its seed.
        trial: Which trial of its options it is.
        options: These options, as JSON.
        accuracy: Fraction classified right; that of guessing if training diverged, or ended with more or less than the
            goal says or took more than it may; NaN if the method refused the task or broke off.
        nll: Mean negative log-likelihood, nats per example.
        ece: Expected calibration error.
        macs: Multiply-adds of one example.
        params: Parameters.
        weights: Weights that are not 0.
        macs_left: Multiply-adds relative to the dense network.
        weights_left: Weights that are not 0, relative to those of the dense network. For a goal in weights those
            count that are not masked, also where nothing reads them and they are not left here.
        charged: What training took to compute, in units of a dense run: steps, and what the method looked at besides.
        epochs: Its length.
        cpu_seconds: Of the processor, from no network at all to the compacted one.
        peak_mib: Most memory that its process has had, or its tensors on a GPU; NaN where the system does not tell.
        ms_of_1: Milliseconds of a pass of the compacted network on one example, of the test stage; on a CPU those that
            its thread works.
        ms_of_256: Those of a pass on 256 examples.
        settings: What tells how it came to its options from every other way.
        version: Of the package.
        warnings: What was said meanwhile.
        error: Why it came to nothing; empty if it did not.

    Examples:
        >>> row = Row("test", "lenet300-digits", "magnitude", "weights", 0.1, 1.0, seed=0, accuracy=0.97)
        >>> row.error, row.accuracy
        ('', 0.97)
    """

    stage: str
    task: str
    method: str
    measure: str
    share: float
    compute: float
    seed: int
    trial: int = 0
    options: str = "{}"
    accuracy: float = math.nan
    nll: float = math.nan
    ece: float = math.nan
    macs: int = 0
    params: int = 0
    weights: int = 0
    macs_left: float = math.nan
    weights_left: float = math.nan
    charged: float = math.nan
    epochs: int = 0
    cpu_seconds: float = math.nan
    peak_mib: float = math.nan
    ms_of_1: float = math.nan
    ms_of_256: float = math.nan
    settings: str = ""
    version: str = ""
    warnings: str = ""
    error: str = ""

    @classmethod
    def of(cls, run: Run, **found: Any) -> Row:
        """The row of a run.

        Args:
            run: The run.
            **found: What it ended with.
        """
        said: dict[str, Any] = {
            "stage": run.stage,
            "task": run.task.name,
            "method": run.method,
            "measure": run.goal.measure,
        }
        said |= {"share": float(run.goal.share), "compute": float(run.compute), "seed": run.seed, "trial": run.trial}
        options = json.dumps(dict(run.options), sort_keys=True)
        return cls(**said, options=options, settings=run.settings, **found)

    @property
    def cell(self) -> tuple[str, str, float, float]:
        """What methods are compared within: task, measure, share and compute."""
        return self.task, self.measure, self.share, self.compute


def write_row(path: Path, row: Row) -> None:
    """Write a row as JSON, atomically.

    Args:
        path: The file.
        row: The row.
    """
    write_atomically(path, json.dumps(asdict(row), indent=1).encode())


def read_row(path: Path) -> Row:
    """The row that `write_row` wrote.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        with file_errors("read", path):
            found = json.loads(path.read_text())
        return Row(**found)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete its folder, and the run is made anew") from error


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, atomically.

    Args:
        path: The file.
        rows: The rows.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(path, text.getvalue().encode())


def failures(rows: Sequence[Row]) -> list[Row]:
    """The rows of runs that came to nothing."""
    return [row for row in rows if row.error]
