"""The record that the folder of a run keeps of its options."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bayesprune import schema
from bayesprune.atomic import file_errors, write_atomically
from bayesprune.cli.config import RunConfig, resolve
from bayesprune.cli.folder import CHECKPOINT
from bayesprune.cli.options import name_of
from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.schema import Check, Mismatch, brief, dataclass_record, items, require, table, text, whole

CONFIG = "config.json"
LARGEST = 2**20
"""Bytes that a record may have; ours have a few thousand."""
LARGEST_EXAMPLE = 2**26
"""Numbers that one example may have."""
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


class Recorded(NamedTuple):
    """What ``config.json`` says.

    Attributes:
        config: Options of the run.
        input_shape: Shape of one example.
        run: What tells the run from every other, see `identity`; ``None`` for runs recorded before there was one, whose
            other files have none either.
    """

    config: RunConfig
    input_shape: tuple[int, ...]
    run: str | None


def write_config(folder: Path, config: RunConfig, input_shape: tuple[int, ...]) -> str:
    """Write ``config.json``: identity, options, the shape of one example and the versions; returns the identity.

    Args:
        folder: Folder of the run.
        config: Options of the run.
        input_shape: Shape of one example.
    """
    options = asdict(config)
    run = identity(uuid.uuid4().hex, options, input_shape)
    write_json(
        folder / CONFIG, {"run": run, "options": options, "input_shape": list(input_shape), "versions": versions()}
    )
    return run


def identity(name: str, options: Mapping[str, Any], input_shape: Sequence[int]) -> str:
    """``NAME-DIGEST``: a name that no other run has, and a digest of what is computed, the seed included.

    All files of a run hold it, so that files of two runs, or of one before and after its options were edited, are
    not taken for those of one.

    Args:
        name: A name that no other run has.
        options: Options of the run.
        input_shape: Shape of one example.
    """
    computed = {key: value for key, value in options.items() if key not in MOVABLE}
    text = json.dumps([computed, list(input_shape)], sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def check_run(path: Path, found: str | None, run: str | None) -> None:
    """Refuse a file that holds another identity than ``config.json`` beside it.

    Args:
        path: The file, for messages.
        found: The identity that it holds.
        run: That of ``config.json``.

    Raises:
        CheckpointError: for such a file.
    """
    if found != run:
        raise CheckpointError(
            f"{path} belongs to another run: its run is {brief(found)}, that of {CONFIG} is {brief(run)}; bring back "
            "the file that belongs here, or train anew in another folder"
        )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write ``record`` as JSON, atomically.

    Args:
        path: The file.
        record: Plain values by key.
    """
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path: Path, check: Check) -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
        path: The file, which is there.
        check: What it must hold.

    Raises:
        CheckpointError: if it is damaged.
        FileError: if it cannot be read.
    """
    try:
        with file_errors("read", path):
            if path.stat().st_size > LARGEST:
                raise Mismatch("", f"at most {LARGEST} bytes", path.stat().st_size)
            found = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        check(found, "")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged or of another version of bayesprune ({error}); start the run anew in another folder"
        ) from error
    return found


def read_config(folder: Path) -> Recorded:
    """What ``config.json`` in ``folder`` says.

    Raises:
        ConfigError: if ``folder`` is not that of a run.
        CheckpointError: if the file is damaged, or was edited.
    """
    path = folder / CONFIG
    with file_errors("read", path):
        if not path.is_file():
            if (folder / CHECKPOINT).is_file():
                raise ConfigError(
                    f"{folder} holds a run of bp.fit, which knows no network and data by name; in Python, write its "
                    "network with bp.save(bp.compact(bnn), 'small.safetensors'), or for other tools with "
                    "bp.pruning.export_onnx(bp.compact(bnn), x, 'small.onnx')"
                )
            lack = f"has no {CONFIG}" if folder.exists() else "does not exist"
            raise ConfigError(
                f"{folder} is not the folder of a run: it {lack}; give the folder that 'bayesprune train --out' made"
            )
    record = read_json(path, CONTENTS)
    config, shape, run = RunConfig(**record["options"]), tuple(record["input_shape"]), record.get("run")
    try:
        config.check_values()
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {error}; start the run anew in another folder") from error
    if run is not None and run != identity(run.partition("-")[0], record["options"], shape):
        raise CheckpointError(
            f"{path} was edited: its options are not those that the run was started with; bring back the file as it "
            "was, or train anew with these options in another folder"
        )
    return Recorded(config, shape, run)


def _check_shape(value: object, where: str) -> None:
    items(whole(1), 1, 4)(value, where)
    assert isinstance(value, list)
    require(math.prod(value) <= LARGEST_EXAMPLE, where, f"at most {LARGEST_EXAMPLE} numbers an example", value)


def _refuse_constant(name: str) -> None:
    raise Mismatch("", "finite numbers", name)


CONTENTS = schema.record(
    {"options": dataclass_record(RunConfig), "input_shape": _check_shape}, {"run": text, "versions": table(text)}
)


def resumed(stored: RunConfig, given: Mapping[str, Any], folder: Path) -> RunConfig:
    """The options to go on with, when ``given`` ones were set together with ``--resume``.

    Args:
        stored: Options of the run so far.
        given: Those that were given now, by name of the field.
        folder: Folder of the run, for messages.

    Raises:
        ConfigError: if one of them contradicts the stored ones.
    """
    asked = resolve(asdict(stored) | dict(given))
    for name in given:
        mine, theirs = getattr(asked, name), getattr(stored, name)
        if name not in MOVABLE and mine != theirs:
            there = f"no {name_of(name)}" if theirs is None else f"{name_of(name)} {theirs}"
            raise ConfigError(
                f"{name_of(name)} {mine} contradicts the run in {folder}, which has {there}; leave the option out "
                "to resume, or start another run with another --out"
            )
    return replace(stored, **{name: getattr(asked, name) for name in MOVABLE if name in given})
