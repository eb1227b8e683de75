"""Processes that make runs, some at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bayesprune.comparison.lanes import Lane
from bayesprune.comparison.material import Material
from bayesprune.comparison.rows import Row
from bayesprune.comparison.running import row_of
from bayesprune.comparison.runs import Run
from bayesprune.errors import BayesPruneError


@dataclass
class Crew:
    """Makes the runs of lanes.

    Attributes:
        folder: That of the comparison.
        material: Where networks and data come from.
        held_out: Which share of the training examples the stages before the test are scored on.
        workers: How many processes train at a time.
    """

    folder: Path
    material: Material
    held_out: float
    workers: int

    def work(self, lanes: Sequence[Lane]) -> Iterator[tuple[Run, Row]]:
        """All runs and their rows, as they are done; with one worker lane by lane."""
        return self._alone(lanes) if self.workers == 1 else self._together(lanes)

    def _row_of(self, run: Run) -> Row:
        return row_of(run, self.folder, self.material, self.held_out)

    def _alone(self, lanes: Sequence[Lane]) -> Iterator[tuple[Run, Row]]:
        """In this process."""
        for lane in map(_Open, lanes):
            while lane.wave:
                for number, run in enumerate(lane.wave):
                    lane.rows[number] = self._row_of(run)
                    yield run, lane.rows[number]
                lane.go_on()

    def _together(self, lanes: Sequence[Lane]) -> Iterator[tuple[Run, Row]]:
        """In several processes, which begin with another lane where one has not enough runs for all."""
        context = multiprocessing.get_context("spawn")  # a process that torch has used cannot be forked
        pool = ProcessPoolExecutor(self.workers, context, _one_thread)
        waiting, futures = iter(lanes), dict[Future[Row], tuple[_Open, int]]()

        def submit(lane: _Open) -> None:
            futures.update({pool.submit(self._row_of, run): (lane, k) for k, run in enumerate(lane.wave)})

        try:
            while True:
                while len(futures) < self.workers and (lane := next(waiting, None)) is not None:
                    submit(_Open(lane))
                if not futures:
                    break
                for done in wait(futures, return_when=FIRST_COMPLETED).done:
                    opened, number = futures.pop(done)
                    opened.rows[number] = done.result()
                    yield opened.wave[number], opened.rows[number]
                    if len(opened.rows) == len(opened.wave):
                        opened.go_on()
                        submit(opened)
            pool.shutdown()
        except BrokenProcessPool as error:
            raise BayesPruneError(
                "compare: a process was killed, maybe for its memory; what is done is kept, so go on with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if futures:
                for process in multiprocessing.active_children():
                    process.terminate()


@dataclass
class _Open:
    """A lane that was begun.

    Attributes:
        lane: The lane.
        wave: Its runs that are to be made now; none when it has ended.
        rows: Those of them that are done, by number.
    """

    lane: Lane
    wave: list[Run] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wave = next(self.lane)

    def go_on(self) -> None:
        """Hand over the rows, and take the next runs."""
        rows = [self.rows[number] for number in range(len(self.wave))]
        self.rows = {}
        try:
            self.wave = self.lane.send(rows)
        except StopIteration:
            self.wave = []


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
