"""What the shell asks for when Tab is pressed: the names of commands and options, without importing what they do."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

WORDS = Path(__file__).with_name("words.json")
"""Commands and options, written by ``python -m tests.cli.words`` off the real ones, to which a test holds them."""


def completing_app() -> typer.Typer:
    """An app with the commands and options of the real one, none of which does anything."""
    app = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
    )
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    app.callback()(_idle(words["options"]))
    for name, command in words["commands"].items():
        app.command(name, short_help=command["help"])(_idle(command["options"]))
    return app


def _idle(options: Mapping[str, Mapping[str, Any]]) -> Any:
    """A command that does nothing.

    Args:
        options: By their flags, the help of its options and whether they take a value.
    """

    def command(**_: Any) -> None:
        pass

    parameters = []
    for number, (flags, said) in enumerate(options.items()):
        kind: Any = str if said["value"] else bool
        annotation = Annotated[kind, typer.Option(flags, help=said["help"])]
        parameters.append(
            inspect.Parameter(f"option_{number}", inspect.Parameter.KEYWORD_ONLY, default=kind(), annotation=annotation)
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
