"""What a run shows while it trains: a live bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console

from bayesprune.cli.encoding import write
from bayesprune.training import EpochRow
from bayesprune.training.progress import EpochBar, describe


class Display:
    """Shows finished epochs; to be used as a context and passed to `fit` as ``on_epoch``.

    Args:
        epochs: Length of the run.
        console: Where to show them.
        aside: Whether lines go to standard error.
    """

    def __init__(self, epochs: int, console: Console, *, aside: bool = False):
        self.epochs, self.aside = epochs, aside
        self.bar = EpochBar(epochs, console) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.__exit__(kind, error, trace)

    def __call__(self, row: EpochRow) -> None:
        """Show one epoch."""
        if self.bar is not None:
            self.bar(row)
        else:
            width = len(str(self.epochs))
            line = f"epoch {row.epoch:{width}d}/{self.epochs}  {describe(row)}  {row.seconds:.2f} s"
            write(line, aside=self.aside)
