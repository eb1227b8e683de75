"""Fields of a dataclass as options of a command: type, default and help of an option stand in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

Command = TypeVar("Command", bound=Callable[..., Any])
_KEY = "option"


@dataclass(frozen=True)
class _Option:
    """What a field says about its option; see `option`."""

    help: str
    default: Any
    shown: str | None


def option(help: str, default: Any = None, *, shown: str | None = None, before: Any = MISSING) -> Any:
    """A field that is an option of the command line.

    Args:
        help: What it is, for ``--help``.
        default: Its value where it is not given; ``None`` where that depends on other options.
        shown: What ``--help`` says of the default instead.
        before: Its value in runs that were recorded before there was such an option; by default there are none.
    """
    return field(default=before, metadata={_KEY: _Option(help, default, shown)})


def defaults(config: type) -> dict[str, Any]:
    """By name of the field, the default of the option; ``None`` where that depends on other options.

    Args:
        config: A dataclass; those of its fields that are made by `option` are options.
    """
    return {each.name: each.metadata[_KEY].default for each in fields(config) if _KEY in each.metadata}


def name_of(field: str) -> str:
    """What a field is called on the command line."""
    return "--" + field.replace("_", "-")


def takes_options_of(config: type) -> Callable[[Command], Command]:
    """Let the last parameter of a command, ``**options``, stand for the options of a dataclass.

    Args:
        config: The dataclass; those of its fields that are made by `option` are options.
    """
    hints = get_type_hints(config)
    added = []
    for each in fields(config):
        if _KEY not in each.metadata:
            continue
        said: _Option = each.metadata[_KEY]
        kind = hints[each.name] if said.default is not None else hints[each.name] | None
        flag = name_of(each.name)
        flags = [f"{flag}/--no-{flag[2:]}"] if kind is bool else []
        info = typer.Option(*flags, help=said.help, show_default=said.shown or True)
        added.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=said.default, annotation=Annotated[kind, info]
            )
        )

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own[:1], *added, *own[1:]])  # type: ignore[attr-defined]
        return command

    return decorate
