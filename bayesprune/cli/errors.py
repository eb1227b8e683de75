"""Errors as one line on stderr and an exit code, never a traceback; said once, however many processes there are."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from bayesprune.atomic import reason
from bayesprune.cli.interrupts import interrupts_are_raised
from bayesprune.errors import BayesPruneError, NonFiniteLossError
from bayesprune.training.devices import first_line, is_memory_error

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: what was asked for cannot be done; training came to nothing; the user stopped it."""

PATIENCE = 10.0
"""Seconds for which the other processes that torchrun started wait for the first one to say what is wrong."""


class Commands(TyperGroup):
    """A group of commands that end with one line of error, and whose warnings are one line each."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with _warnings_as_lines(), interrupts_are_raised():
                return super().invoke(ctx)
        except BayesPruneError as error:
            refuse(str(error), FAILED if isinstance(error, NonFiniteLossError) else REFUSED, error)
        except KeyboardInterrupt:
            interrupted("Interrupted.")
        except BrokenPipeError:  # whoever read the output has enough, which Typer knows
            raise
        except OSError as error:
            refuse(f"{error.filename or 'a file'}: {reason(error)}", REFUSED, error)
        except Exception as error:
            if is_memory_error(error):
                refuse(f"out of memory ({first_line(error)}); try a smaller --batch-size or network", REFUSED, error)
            if hasattr(error, "show"):  # what is wrong with the options, which Typer says itself
                _await_first()
            raise


def refuse(message: str, code: int, error: Exception) -> NoReturn:
    """End with an exit code and one line of error.

    Args:
        message: What is wrong, and what to do.
        code: The exit code.
        error: What was raised.
    """
    _await_first()
    say("error", message)
    raise typer.Exit(code) from error


def first() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _await_first() -> None:
    """Give the first process the time to say the same error; torchrun ends the others as soon as it has.

    Only what the first process does not meet is then said by another one.
    """
    if not first():
        time.sleep(PATIENCE)


def interrupted(message: str) -> NoReturn:
    """End with the exit code of Ctrl-C, which all processes get; the first one says ``message``, which is no error."""
    if first():
        print(message, file=sys.stderr, flush=True)
    raise typer.Exit(INTERRUPTED) from None


def say(kind: str, message: str) -> None:
    """Print ``kind: message`` on stderr, on one line.

    Args:
        kind: ``error`` or ``warning``.
        message: A text of any number of lines.
    """
    print(f"{kind}: {' '.join(message.split())}", file=sys.stderr, flush=True)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print every warning as one line, and once only, by the first process only."""
    said = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if first() and str(message) not in said:
            said.add(str(message))
            say("warning", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
