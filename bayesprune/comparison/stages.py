"""The stages: trials and paces on held-out training data; then, with options that are frozen, the test images."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bayesprune.atomic import file_errors, write_atomically
from bayesprune.comparison.identity import digest_of, identities
from bayesprune.comparison.machine import facts
from bayesprune.comparison.material import Material
from bayesprune.comparison.plan import Plan
from bayesprune.comparison.rows import Row, write_csv
from bayesprune.comparison.running import row_of
from bayesprune.comparison.runs import Run, pacing_runs, test_runs, tuning_runs
from bayesprune.comparison.tuning import FROZEN, choices, freeze, frozen
from bayesprune.errors import BayesPruneError, CheckpointError, ConfigError
from bayesprune.training.lock import only_process

PLAN, MATERIAL, MACHINE = "plan.json", "material.json", "machine.json"
OnRow = Callable[[Row, int, int], None]
"""Called with every finished row, how many there are of its stage, and how many there are to be."""


@dataclass(frozen=True)
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

    def compare(self) -> list[Row]:
        """All stages, as far as they are not done; returns the rows of the test stage.

        Raises:
            ConfigError: if the folder is that of another comparison, or of another process.
            CheckpointError: if a file in it was changed or is damaged.
        """
        with file_errors("make the folder", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with only_process(self.folder):
            settings = self._begin()
            if not (self.folder / FROZEN).exists():
                chosen = choices(self.plan, self._stage("tuning.csv", [tuning_runs(self.plan, settings)]))
                paced = self._stage("pacing.csv", [pacing_runs(self.plan, chosen, settings)])
                freeze(self.folder, settings, chosen, paced)
            chosen, digest = frozen(self.folder, settings)
            runs = test_runs(self.plan, chosen, digest)
            waves = [[run for run in runs if run.parent is None], [run for run in runs if run.parent is not None]]
            return self._stage("rows.csv", waves)

    def _begin(self) -> str:
        """Write what is compared and where, or see that it is the same as before; returns what tells it from others."""
        path = self.folder / PLAN
        if path.exists() and path.read_text() != self.plan.text():
            raise ConfigError(f"{self.folder} holds a comparison by other settings; give those, or another folder")
        write_atomically(path, self.plan.text().encode())
        found = identities(self.plan, self.material)
        self._same_material(found)
        if not (self.folder / MACHINE).exists():
            write_atomically(self.folder / MACHINE, json.dumps(facts(), indent=1).encode())
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

    def _stage(self, name: str, waves: Sequence[Sequence[Run]]) -> list[Row]:
        """The rows of runs in their order, and as CSV what there is of them at any time.

        Args:
            name: Of the file.
            waves: The runs; those of a wave need some of the waves before.
        """
        runs = [run for wave in waves for run in wave]
        found: dict[Path, Row] = {}
        for wave in waves:
            for run, row in self._made(wave):
                found[run.folder] = row
                write_csv(self.folder / name, [found[one.folder] for one in runs if one.folder in found])
                self.on_row(row, len(found), len(runs))
        return [found[run.folder] for run in runs]

    def _made(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Row]]:
        """Runs and their rows, as they are done."""
        given = self.folder, self.material, self.plan.tuning.held_out
        if self.workers == 1:
            for run in runs:
                yield run, row_of(run, *given)
            return
        context = multiprocessing.get_context("spawn")  # a process that torch has used cannot be forked
        pool = ProcessPoolExecutor(min(self.workers, max(1, len(runs))), context, _one_thread)
        futures: dict[Future[Row], Run] = {}
        try:
            futures = {pool.submit(row_of, run, *given): run for run in runs}
            for done in as_completed(futures):
                yield futures[done], done.result()
            pool.shutdown()
        except BrokenProcessPool as error:
            raise BayesPruneError(
                "compare: a process was killed, maybe for its memory; what is done is kept, so go on with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if not all(future.done() for future in futures):
                for process in multiprocessing.active_children():
                    process.terminate()


def _one_thread() -> None:
    """Let a process of several compute on one thread, and end with the one that it belongs to."""
    torch.set_num_threads(1)
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the process that this one belongs to is gone, however it went, and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody is left to read a row; the run goes on from its checkpoint
