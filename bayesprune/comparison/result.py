"""What a comparison came to: rows, a table, curves and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import file_errors
from bayesprune.comparison.curves import as_svg, draw_curves
from bayesprune.comparison.goals import FREE
from bayesprune.comparison.plan import Plan
from bayesprune.comparison.rows import MACHINE, PLAN, ROW, Row, failures, read_row
from bayesprune.comparison.runs import TEST, labels
from bayesprune.comparison.statistics import Interval, Line, lines
from bayesprune.comparison.tuning import all_frozen
from bayesprune.errors import CheckpointError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Read = TypeVar("Read")
HEADER = (
    *("network, data", "compute", "goal", "method", "accuracy %", "behind ours, points", "NLL", "ECE %"),
    *("multiply-adds left %", "weights left %", "ms of 1", "ms of 256"),
    *("compute taken", "CPU s", "runs"),
)


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """What a comparison came to.

    Attributes:
        plan: What was compared.
        rows: One row a run of the test stage.
        chosen: By task and method, what the trials spoke for.
        machine: Processor and versions.

    Examples:
        >>> from bayesprune.comparison import Plan, Row
        >>> row = Row("test", "lenet300-digits", "magnitude", "weights", 0.1, 1.0, seed=0, accuracy=0.97)
        >>> ComparisonResult(Plan.read("quick"), [row], {}, {})
        ComparisonResult(1 run, 0 of which came to nothing)
    """

    plan: Plan
    rows: list[Row]
    chosen: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @classmethod
    @checked_arguments
    def read(cls, folder: str | Path) -> ComparisonResult:
        """What is done so far of a comparison, also while it goes on.

        Args:
            folder: That of the comparison.

        Raises:
            FileError: if no comparison is there.
            CheckpointError: if a file in it was changed or is damaged.
        """
        place = Path(folder)
        plan = _read(place / PLAN, Plan.of_text)
        rows = [read_row(row) for row in sorted((place / TEST).rglob(ROW))]
        return cls(plan, rows, all_frozen(place, plan), _read(place / MACHINE, json.loads))

    def __repr__(self) -> str:
        """How many runs, and how many came to nothing."""
        count = len(self.rows)
        return f"ComparisonResult({count} run{'s' * (count != 1)}, {len(failures(self.rows))} of which came to nothing)"

    def lines(self) -> list[Line]:
        """One line a method and goal, the most accurate of a goal first."""
        return lines(self.rows)

    @property
    def record(self) -> dict[str, Any]:
        """What ``compare --json`` prints: ``title``, the ``lines`` of the table, and the ``failures``; null for none.

        Of a line accuracy and how far it is behind ours are fractions with half their 95 % intervals; of what its other
        figures are see `Row`.
        """
        failed = [{"task": row.task, "method": row.method, "error": row.error} for row in failures(self.rows)]
        return {"title": self.plan.title, "lines": [_record(line) for line in self.lines()], "failures": failed}

    def table(self) -> str:
        """All lines as a Markdown table: means over seeds with their 95 % intervals.

        How far a method is behind ours is paired by seed; *tie* where the interval holds 0. A mean that leaves out runs
        without an accuracy says so, and one of runs that all came to nothing is marked *guessing*. NLL and ECE are
        there where all runs came to something.
        """
        cells = [_cells(line) for line in self.lines()]
        return "\n".join("| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER), *cells))

    def plot(self) -> Figure:
        """Accuracy over what is left.

        Raises:
            ConfigError: if no run came to anything.
        """
        return draw_curves(self.lines())

    @checked_arguments
    def html(self, path: str | Path) -> None:
        """Write one page with all of it, which needs no other file.

        Raises:
            FileError: if it cannot be written there.
        """
        from bayesprune.reports.page import write_page  # slow to import: rich

        template = resources.files("bayesprune.comparison").joinpath("page.html.j2").read_text(encoding="utf-8")
        drawn = any(line.comparable and line.measure != FREE for line in self.lines())
        write_page(
            Path(path),
            template,
            plan=self.plan,
            picture=as_svg(self.plot()) if drawn else "",
            header=HEADER,
            cells=[_cells(line) for line in self.lines()],
            chosen=self.chosen,
            failures=failures(self.rows),
            columns=list(Row.__dataclass_fields__),
            rows=[asdict(row) for row in self.rows],
            machine=json.dumps(self.machine, indent=1),
        )


def _record(line: Line) -> dict[str, Any]:
    """A line by name of its figures; ``None`` for those that it has not."""
    behind = line.behind or Interval(math.nan, math.nan, 0)
    found = {
        **{"accuracy": line.accuracy.mean, "accuracy_half": line.accuracy.half},
        **{"behind": behind.mean, "behind_half": behind.half},
        **{name: line.mean(name) for name in ("nll", "ece", "macs_left", "weights_left", "ms_of_1", "ms_of_256")},
        **{name: line.mean(name) for name in ("charged", "cpu_seconds")},
    }
    return {
        **{name: getattr(line, name) for name in ("task", "method", "measure", "share", "compute")},
        **{name: value if math.isfinite(value) else None for name, value in found.items()},
        "runs": len(line.rows),
        "failed": line.failed,
    }


def _cells(line: Line) -> list[str]:
    """A line of the table."""
    nll, ece = (math.nan if line.failed else line.mean(name) for name in ("nll", "ece"))
    return [
        line.task,
        f"{line.compute:g}×",
        "as it ends" if line.measure == FREE else f"{line.measure} {100 * line.share:g} %",
        labels([line.method])[line.method],
        _accuracy(line),
        _behind(line.behind),
        _number(nll, 4),
        _number(100 * ece, 2),
        _number(100 * line.mean("macs_left"), 2),
        _number(100 * line.mean("weights_left"), 2),
        _number(line.mean("ms_of_1"), 3),
        _number(line.mean("ms_of_256"), 2),
        _number(line.mean("charged"), 2),
        _number(line.mean("cpu_seconds"), 1),
        f"{len(line.rows) - line.failed} of {len(line.rows)}",
    ]


def _accuracy(line: Line) -> str:
    """A mean in percent, what it may be off by, and whether it is that of some of the runs alone, or of guessing."""
    found = line.accuracy
    if found.count == 0:
        return "–"
    guessing = line.failed == len(line.rows)
    half = f" ± {100 * found.half:.2f}" if math.isfinite(found.half) and not guessing else ""
    notes = ["guessing"] * guessing
    if not line.comparable:
        notes = [f"{found.count} of {len(line.rows)}", *notes, "not comparable"]
    return f"{100 * found.mean:.2f}{half}" + (f" ({', '.join(notes)})" if notes else "")


def _behind(found: Interval | None) -> str:
    if found is None or found.count == 0:
        return ""
    text = f"{100 * found.mean:+.2f}"
    if not math.isfinite(found.half):
        return text
    tie = ", tie" if found.low <= 0 <= found.high else ""
    return f"{text} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]{tie}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def ending(rows: Sequence[Row]) -> str:
    """The errors of a comparison, most frequent first, a line each."""
    counted: dict[str, int] = {}
    for row in failures(rows):
        said = f"{row.task}, {row.method}: {row.error}"
        counted[said] = counted.get(said, 0) + 1
    return "\n".join(f"{count} × {said}" for said, count in sorted(counted.items(), key=lambda pair: -pair[1]))


def _read(path: Path, meaning: Callable[[str], Read]) -> Read:
    """What a file of a comparison says.

    Args:
        path: The file.
        meaning: Gives it for the text.
    """
    with file_errors("read", path):
        text = path.read_text()
    try:
        return meaning(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
