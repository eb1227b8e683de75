"""What `fit` shows on a terminal while it trains: a live bar, moved by every finished epoch."""

from __future__ import annotations

import math
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from bayesprune.training.history import EpochRow

if TYPE_CHECKING:
    from rich.console import Console


class EpochBar:
    """A bar of finished epochs; to be used as a context and called with every row.

    Args:
        epochs: Length of the run.
        console: Where to show it; ``None`` for the standard error stream.
    """

    def __init__(self, epochs: int, console: Console | None = None):
        from rich.console import Console  # slow to import
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True) if console is None else console)
        self.task = self.bar.add_task("starting", total=epochs)

    def __enter__(self) -> EpochBar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, row: EpochRow) -> None:
        """Show one epoch."""
        self.bar.update(self.task, completed=row.epoch, description=describe(row))


def on_terminal() -> bool:
    """Whether the standard error stream is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def describe(row: EpochRow) -> str:
    """Phase, loss, accuracy (if there is one) and size of the network at the end of an epoch."""
    accuracy = "" if math.isnan(row.val_accuracy) else f"accuracy {100 * row.val_accuracy:5.2f} %  "
    return f"{row.phase:9}  loss {row.loss:.4f}  {accuracy}gates with θ > ½ {row.gates_left:,}  params {row.params:,}"
