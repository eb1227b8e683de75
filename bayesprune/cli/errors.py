"""Errors as one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from bayesprune.errors import BayesPruneError, NonFiniteLossError

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: what was asked for cannot be done; training came to nothing; the user stopped it."""


class Commands(TyperGroup):
    """A group of commands that end with one line of error, and whose warnings are one line each."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with _warnings_as_lines():
                return super().invoke(ctx)
        except BayesPruneError as error:
            say("error", str(error))
            raise typer.Exit(FAILED if isinstance(error, NonFiniteLossError) else REFUSED) from error
        except KeyboardInterrupt:
            say("error", "interrupted")
            raise typer.Exit(INTERRUPTED) from None


def say(kind: str, message: str) -> None:
    """Print ``kind: message`` on stderr, on one line."""
    typer.echo(f"{kind}: {' '.join(message.split())}", err=True)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print every warning as one line, and once only."""
    said = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            say("warning", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
