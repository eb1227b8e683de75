"""What Ctrl-C does: end the process where nothing has begun, and raise `KeyboardInterrupt` in a command that runs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTED = 130


@contextmanager
def interrupts_end_the_process() -> Iterator[None]:
    """Let Ctrl-C end the process at once, with one line; what was there before comes back afterwards.

    While modules are being imported, and options read, nothing is lost by that, and an exception might be caught
    half-way, in libraries that take every error in an import for a missing dependency. A command that runs answers
    Ctrl-C itself, see `interrupts_are_raised`.
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


@contextmanager
def interrupts_are_raised() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` within the context, where it would end the process at once."""
    before = signal.getsignal(signal.SIGINT)
    if before is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: FrameType | None) -> None:
    """Say so, the first of several processes for all of them, and end."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, b"Interrupted.\n")
    os._exit(_INTERRUPTED)
