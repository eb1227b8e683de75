"""What is done with one method on one task: trials, then how long its runs may be, then what is compared."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from bayesprune.comparison.goals import DENSE, SMALL
from bayesprune.comparison.pacing import best_length, first_length, next_length, shorter_length
from bayesprune.comparison.plan import Plan, Task
from bayesprune.comparison.rows import Row
from bayesprune.comparison.runs import PACING, RETRAINED, UNTUNED, Found, Run, test_runs, tuning_runs
from bayesprune.comparison.tuning import choose, file_of, freeze, frozen

Lane = Generator[list[Run], list[Row], None]
"""Gives runs to be made and takes their rows, until all is done."""


@dataclass(frozen=True)
class Place:
    """Where a method is compared.

    Attributes:
        plan: The plan.
        folder: That of the comparison.
        task: On what.
        compute: What each run may take, in units of a dense run.
        settings: What tells the plan, its data and its networks from others.
    """

    plan: Plan
    folder: Path
    task: Task
    compute: float
    settings: str

    def frozen(self, method: str) -> tuple[Found, str]:
        """What was chosen of a method, and its digest, see `tuning.frozen`."""
        return frozen(self._path(method), self.settings)

    def lane(self, method: str) -> Lane:
        """All runs of a method, those first that others need; by its defaults if its name ends in `UNTUNED`."""
        if not self._path(method).exists():
            yield from self._tuned(method)
        yield test_runs(self.plan, self.task, method, self.compute, *self.frozen(method))

    def retrained(self, method: str) -> Lane:
        """The runs that begin with the networks of a method's, by the options of `SMALL`; both must be done."""
        yield test_runs(self.plan, self.task, method + RETRAINED, self.compute, *self.frozen(SMALL))

    def _path(self, method: str) -> Path:
        return file_of(self.folder, self.task, method, self.compute)

    def _tuned(self, method: str) -> Lane:
        """Choose options by trials and the lengths of runs, and freeze them."""
        by = method.removesuffix(UNTUNED)
        offered = tuning_runs(self.plan, self.task, by, self.settings)
        rows = yield offered if by == method else offered[:1]
        found = choose(rows)
        best = offered[found["trial"]]
        tried: dict[str, dict[int, Row]] = {str(goal): {} for goal in self.plan.goals(by)}
        if by != DENSE:
            if self.compute == 1 and str(best.goal) in tried:  # the trial was such a run
                row = rows[best.trial]
                tried[str(best.goal)][row.epochs or self.task.epochs] = row
            yield from self._paced(best, tried)
        first = first_length(self.task.epochs, self.compute)
        found["epochs"] = {goal: self._best(its) or first for goal, its in tried.items() if its}
        freeze(self._path(method), self.settings, found)

    def _paced(self, chosen: Run, tried: dict[str, dict[int, Row]]) -> Lane:
        """Find how long a method's runs may be, and try shorter ones.

        Args:
            chosen: The trial that was chosen.
            tried: By goal and length, what came of it; what is found is added.
        """
        goals = {str(goal): goal for goal in self.plan.goals(chosen.method)}
        while True:
            lengths = {goal: self._next(tried[goal]) for goal in goals}
            runs = [
                replace(chosen, stage=PACING, goal=goals[goal], compute=self.compute, epochs=length)
                for goal, length in lengths.items()
                if length is not None
            ]
            if not runs:
                return
            for run, row in zip(runs, (yield runs), strict=True):
                tried[str(run.goal)][run.epochs or 0] = row

    def _next(self, tried: dict[int, Row]) -> int | None:
        """The length that is to be tried next; ``None`` if those that were are enough.

        Args:
            tried: By length, what came of it.
        """
        taken = {length: row.charged for length, row in tried.items()}
        longer = next_length(taken, self.task.epochs, self.compute)
        return longer or shorter_length(taken, self.task.epochs, self.compute)

    def _best(self, tried: dict[int, Row]) -> int:
        """The length that is best on held-out data; 0 if each took too much.

        Args:
            tried: By length, what came of it.
        """
        taken = {length: row.charged for length, row in tried.items()}
        return best_length(taken, {length: row.nll for length, row in tried.items()}, self.compute)
