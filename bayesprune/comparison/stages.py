"""The stages: trials and lengths on held-out training data; then, with what is frozen, the test images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bayesprune.atomic import file_errors, write_atomically
from bayesprune.comparison.crew import Crew
from bayesprune.comparison.goals import FREE, MACS, WEIGHTS
from bayesprune.comparison.identity import digest_of, identities
from bayesprune.comparison.lanes import Lane, Place
from bayesprune.comparison.machine import facts
from bayesprune.comparison.material import Material
from bayesprune.comparison.plan import Plan
from bayesprune.comparison.rows import MACHINE, PLAN, Row, write_csv
from bayesprune.comparison.runs import PACING, TEST, TUNING, UNTUNED, Run, all_runs, names_of
from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.training.lock import only_process

MATERIAL = "material.json"
FILES = {TUNING: "tuning.csv", PACING: "pacing.csv", TEST: "rows.csv"}
"""Where the rows of each stage are."""
MEASURES = MACS, WEIGHTS, FREE
OnRow = Callable[[Row, int, int], None]
"""Called with every finished row, how many there are of its stage, and how many there are to be."""


@dataclass
class Workshop:
    """Where a comparison is made.

    Attributes:
        plan: What is compared.
        material: Where networks and data come from.
        folder: Of all its files.
        workers: How many processes train at a time.
        on_row: Called with every finished row.
    """

    plan: Plan
    material: Material
    folder: Path
    workers: int
    on_row: OnRow

    def __post_init__(self) -> None:
        self._made: dict[str, dict[Path, tuple[Run, Row]]] = {stage: {} for stage in FILES}
        self._expected = Counter(run.stage for run in all_runs(self.plan))

    def compare(self) -> None:
        """All stages, as far as they are not done, network by network, and first with the least to compute.

        Raises:
            ConfigError: if the folder is that of another comparison, or of another process.
            CheckpointError: if a file in it was changed or is damaged.
        """
        with file_errors("make the folder", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with only_process(self.folder):
            settings = self._begin()
            crew = Crew(self.folder, self.material, self.plan.tuning.held_out, self.workers)
            for compute, task in product(self.plan.compute, self.plan.tasks):
                place = Place(self.plan, self.folder, task, compute, settings)
                self._work(crew, [place.lane(method) for method in self.plan.methods])
                by_defaults = [place.lane(method + UNTUNED) for method in self.plan.untuned]
                self._work(crew, by_defaults)  # after the trials of the same method
                self._work(crew, [place.retrained(method) for method in self.plan.retrained])

    def _work(self, crew: Crew, lanes: list[Lane]) -> None:
        """Make all runs of some lanes, and write their rows as they are done."""
        for run, row in crew.work(lanes):
            its = self._made[run.stage]
            if run.folder in its:  # a trial, which one lane for each compute looks at
                continue
            its[run.folder] = run, row
            write_csv(self.folder / FILES[run.stage], self.rows(run.stage))
            self.on_row(row, len(its), max(self._expected[run.stage], len(its)))

    def rows(self, stage: str) -> list[Row]:
        """The rows of a stage that are done, in an order that does not depend on which were done first."""
        names = names_of(self.plan)

        def place(made: tuple[Run, Row]) -> tuple[float, ...]:
            run, _ = made
            where = self.plan.tasks.index(run.task), names.index(run.method), MEASURES.index(run.goal.measure)
            return (run.compute, *where, -run.goal.share, run.trial, run.epochs or 0, run.seed)

        return [row for _, row in sorted(self._made[stage].values(), key=place)]

    def _begin(self) -> str:
        """Write what is compared and where, or see that it is the same as before; returns what tells it from others."""
        path = self.folder / PLAN
        if path.exists() and (before := path.read_text()) != self.plan.text():
            try:
                differing = "; ".join(self.plan.differences(before))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(f"{path} is damaged ({error}); compare anew in another folder") from error
            raise ConfigError(
                f"{self.folder} holds a comparison by other settings; give those, or another folder. They differ in "
                f"{differing}"
            )
        if not (self.folder / MACHINE).exists():
            write_atomically(self.folder / MACHINE, json.dumps(facts(), indent=1).encode())
        write_atomically(path, self.plan.text().encode())
        found = identities(self.plan, self.material)
        self._same_material(found)
        return digest_of([self.plan.digest, found])

    def _same_material(self, found: dict[str, dict[str, str]]) -> None:
        """Write what data and networks are, or see that they are the same as before.

        Args:
            found: What they are now.
        """
        path = self.folder / MATERIAL
        if not path.exists():
            write_atomically(path, json.dumps(found, indent=1).encode())
        try:
            before = json.loads(path.read_text())
            other = [(task, what) for task, its in found.items() for what in its if before[task][what] != its[what]]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); compare anew in another folder") from error
        if other:
            task, what = other[0]
            raise ConfigError(
                f"{self.folder} holds a comparison where the {what} of {task} was another; give that, or another folder"
            )
