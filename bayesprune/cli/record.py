"""The record that the folder of a run keeps of its options."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bayesprune.atomic import write_atomically
from bayesprune.cli.config import RunConfig, option, resolve
from bayesprune.errors import CheckpointError, ConfigError

CONFIG = "config.json"
MOVABLE = {"data_dir"}
"""Options that may change when a run is resumed: they say where something lies, not what is computed."""


def versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on."""
    return {
        "bayesprune": version("bayesprune"),
        "torch": torch.__version__,
        "pyro": version("pyro-ppl"),
        "python": platform.python_version(),
    }


def write_config(folder: Path, config: RunConfig, input_shape: tuple[int, ...]) -> None:
    """Write ``config.json``: all options, the shape of one example and the versions."""
    record = {"options": asdict(config), "input_shape": list(input_shape), "versions": versions()}
    write_json(folder / CONFIG, record)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write ``record`` as JSON, atomically."""
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_config(folder: Path) -> tuple[RunConfig, tuple[int, ...]]:
    """Options of the run in ``folder`` and the shape of one of its examples.

    Raises:
        ConfigError: if ``folder`` is not that of a run.
        CheckpointError: if ``config.json`` is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{folder} is not the folder of a run: it has no {CONFIG}; give the folder that 'bayesprune train --out' "
            "made"
        )
    try:
        record = json.loads(path.read_text())
        options = record["options"]
        config = RunConfig(**{f.name: options[f.name] for f in fields(RunConfig) if f.name in options})
        shape = tuple(int(size) for size in record["input_shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged or of another version of bayesprune ({type(error).__name__}: {error}); start the run "
            "anew in another folder"
        ) from error
    return config, shape


def resumed(stored: RunConfig, given: Mapping[str, Any], folder: Path) -> RunConfig:
    """The options to go on with, when ``given`` ones were set together with ``--resume``.

    Raises:
        ConfigError: if one of them contradicts the stored ones.
    """
    asked = resolve(asdict(stored) | dict(given))
    for name in given:
        mine, theirs = getattr(asked, name), getattr(stored, name)
        if name not in MOVABLE and mine != theirs:
            there = f"no {option(name)}" if theirs is None else f"{option(name)} {theirs}"
            raise ConfigError(
                f"{option(name)} {mine} contradicts the run in {folder}, which has {there}; leave the option out "
                "to resume, or start another run with another --out"
            )
    return replace(stored, **{name: getattr(asked, name) for name in MOVABLE if name in given})
