"""The tables of a settings file, and records of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from bayesprune.atomic import file_errors
from bayesprune.checked import meant
from bayesprune.errors import ConfigError

T = TypeVar("T")
QUICK, FULL = "quick", "full"
"""The settings files that come with the package."""


def packaged(name: str) -> Path:
    """Where one of the settings files of the package is.

    Args:
        name: `QUICK` or `FULL`.
    """
    return Path(str(resources.files("bayesprune.comparison").joinpath(f"{name}.toml")))


def parsed(source: str | Path) -> dict[str, Any]:
    """What a settings file holds.

    Args:
        source: Its path, `QUICK` or `FULL`.

    Raises:
        ConfigError: if it is no TOML.
        FileError: if it cannot be read.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11
        import tomli as tomllib
    path = packaged(str(source)) if source in (QUICK, FULL) else Path(source)
    with file_errors("read the settings", path):
        content = path.read_bytes()
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"compare: {source} is no TOML: {error}") from error


def table(where: str, given: object) -> dict[str, Any]:
    """What a table of the settings holds.

    Args:
        where: What it is called.
        given: What is there.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"compare: {where} must be a table, got {given!r}")
    return dict(given)


def made(kind: type[T], where: str, given: object) -> T:
    """A record of a table, whose keys are the record's fields.

    Args:
        kind: The record.
        where: What the table is called.
        given: What is there.
    """
    held, takes = table(where, given), {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in held:
        if key not in takes:
            raise ConfigError(f"compare: {where} has no key {key!r}{meant(key, takes)}; known are {', '.join(takes)}")
    check_complete(kind, where, held)
    return kind(**held)


def check_complete(kind: type, where: str, held: Mapping[str, Any]) -> None:
    """Refuse a table without what a record must have, all of which is named.

    Args:
        kind: The record.
        where: What the table is called.
        held: What it holds.

    Raises:
        ConfigError: for such a table.
    """
    takes = {each.name: each for each in fields(kind)}
    lacking = [name for name, each in takes.items() if name not in held and each.default is MISSING]
    if lacking:
        raise ConfigError(f"compare: {where} must have {', '.join(lacking)}; known are {', '.join(takes)}")
