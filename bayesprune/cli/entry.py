"""Where the command line starts: what can be answered, and stopped, before anything slow is imported."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bayesprune.cli.encoding import write_what_can_be_written
from bayesprune.cli.version import version_line

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the command ``bayesprune``."""
    write_what_can_be_written()
    if sys.argv[1:] == ["--version"]:
        print(version_line())
        return
    with _interrupts_end_the_process():
        from bayesprune.cli.commands import app  # slow to import: torch
    app(prog_name="bayesprune")


@contextmanager
def _interrupts_end_the_process() -> Iterator[None]:
    """Let Ctrl-C end the process at once, with one line; what was there before comes back afterwards.

    While modules are being imported nothing is lost by that, and an exception might be caught half-way, in libraries
    that take every error in an import for a missing dependency.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody else answers, or interrupts are ignored, as under nohup
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: FrameType | None) -> None:
    """Say so, the first of several processes for all of them, and end."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, b"Interrupted.\n")
    os._exit(_INTERRUPTED)
