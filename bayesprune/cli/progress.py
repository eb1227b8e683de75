"""What a run shows while it trains: a live bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bayesprune.cli.encoding import write
from bayesprune.training import EpochRow


class Display:
    """Shows finished epochs; to be used as a context and passed to `fit` as ``on_epoch``.

    Args:
        epochs: Length of the run.
        console: Where to show them.
    """

    def __init__(self, epochs: int, console: Console):
        self.epochs = epochs
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("epoch"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task("starting", total=epochs)

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, row: EpochRow) -> None:
        """Show one epoch."""
        if self.bar is not None:
            self.bar.update(self.task, completed=row.epoch, description=describe(row))
        else:
            width = len(str(self.epochs))
            write(f"epoch {row.epoch:{width}d}/{self.epochs}  {describe(row)}  {row.seconds:.2f} s")


def describe(row: EpochRow) -> str:
    """Phase, loss, accuracy and size of the network at the end of an epoch."""
    return (
        f"{row.phase:9}  loss {row.loss:.4f}  accuracy {100 * row.val_accuracy:5.2f} %  gates {row.gates_left:,}  "
        f"params {row.params:,}"
    )
