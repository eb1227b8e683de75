"""One file that holds a plain network, architecture and weights; loading it runs no code from it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import file_errors, write_atomically
from bayesprune.errors import BayesPruneError, CheckpointError, ConfigError
from bayesprune.graph import check_additions, gates_of, trace
from bayesprune.pruning.architecture import describe
from bayesprune.pruning.compaction import compact, gated_network
from bayesprune.pruning.rebuild import rebuild

FORMAT = "bayesprune.model"
VERSION = 1
MOST_TENSORS = 100_000
LONGEST_TEXT = 2**22
"""How many characters an architecture may have: JSON of nested lists takes a second a few million."""


@checked_arguments
def save(model: nn.Module, path: str | os.PathLike[str], *, run: str | None = None) -> None:
    """Write a compacted network, or any traceable network of standard torch layers, to one safetensors file.

    The file holds the tensors and, as metadata, the architecture (JSON), a format version, and a SHA-256 of them. The
    digest finds damage; it is no signature. The file is written whole or not at all.

    Args:
        model: A network without gates.
        path: File to write; its folder must exist.
        run: A name of the run that the network comes from, to be kept in the file; `read_run` gives it back.

    Raises:
        ConfigError: for a network with gates, parts that a model file cannot hold, or a folder that does not exist.
        FileError: if the file cannot be written: the disk is full, the name too long, the folder read-only.
        TraceError: for a network whose forward pass cannot be followed, or with hooks or parametrised weights.
    """
    path = Path(path)
    with file_errors("write", path):
        if not path.parent.is_dir():
            raise ConfigError(f"save: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise ConfigError(f"save: {path} is a folder; give the name of a file")
    if gates_of(gated_network(model)):
        raise ConfigError(
            "save: the network still has gates; save bayesprune.compact(model), the plain network. What else there is "
            "of a posterior fit(..., out=FOLDER) keeps in its checkpoint, and torch.save writes a BayesianNet whole"
        )
    architecture, tensors = _parts(model)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": architecture,
        "sha256": _digest(str(VERSION), architecture, tensors, run),
    }
    if run is not None:
        metadata["run"] = run
    write_atomically(path, to_bytes(tensors, metadata))


def unsavable(net: nn.Module) -> str | None:
    """Why what ``net`` is compacted to could not be saved: to be asked before it is trained, not after.

    Args:
        net: A `BayesianNet`, a gated network, or a plain one. It is not touched, and no random number is drawn.

    Returns:
        The reason in one line; ``None`` for a network that can be saved.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            _parts(compact(net) if gates_of(gated_network(net)) else net)
    except BayesPruneError as error:
        return _line(error).removeprefix("save: ")
    return None


def _parts(model: nn.Module) -> tuple[str, dict[str, Tensor]]:
    """Architecture and tensors of a network that can be built from them again."""
    check_additions(model)
    modes = {name: module.training for name, module in model.named_modules()}
    traced = trace(copy.deepcopy(model).eval())
    used = {str(n.target) for n in traced.graph.nodes if n.op in ("call_module", "get_attr")}
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in traced.net.state_dict().items()
        if used.intersection(accumulate(name.split("."), "{}.{}".format))
    }
    missing = {str(n.target) for n in traced.graph.nodes if n.op == "get_attr"} - tensors.keys()
    if missing:
        raise ConfigError(
            f"save: tensors {', '.join(sorted(missing)[:3])}{', ...' if len(missing) > 3 else ''} are not in the "
            "network's state_dict (those called _tensor_constant are made in forward); register them as parameters or "
            "persistent buffers"
        )
    architecture = json.dumps(describe(traced, modes), sort_keys=True, allow_nan=False)
    if len(tensors) > MOST_TENSORS or len(architecture) > LONGEST_TEXT:
        raise ConfigError(
            f"save: the network is too large: a model file holds up to {MOST_TENSORS:,} tensors and a description of "
            f"{LONGEST_TEXT:,} characters; use torch.save or torch.export"
        )
    try:
        rebuild(json.loads(architecture), tensors)
    except Exception as error:
        raise ConfigError(f"save: the network cannot be built from its parts again: {_line(error)}") from error
    return architecture, tensors


@checked_arguments
def read_run(path: str | os.PathLike[str]) -> str | None:
    """The name of the run that a model file comes from, as `save` was given it, or ``None``.

    Only the head of the file is read; `load` checks all of it.

    Raises:
        CheckpointError: for a file that is missing, truncated or made by something else.
    """
    with _opened(Path(path)) as (_, metadata):
        return metadata.get("run")


@checked_arguments
def load(path: str | os.PathLike[str]) -> nn.Module:
    """Read a network that `save` wrote, onto the CPU. It needs neither the code nor the network it came from.

    Returns:
        A ``torch.fx.GraphModule`` in the training mode it was saved in.

    Raises:
        CheckpointError: for a file that is missing, truncated, tampered with, newer, or made by something else.
        FileError: for a name that the system refuses.
    """
    path = Path(path)
    with _opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    _check_identity(path, metadata, tensors)
    try:
        return rebuild(json.loads(metadata["architecture"]), tensors)
    except Exception as error:  # whatever a hostile description provokes
        raise CheckpointError(f"{path}: its architecture is refused: {_line(error)}. Save the network again") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A model file, open for reading, and its metadata; refused if it is not whole or not ours."""
    with file_errors("read", path):
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file; give a file that bayesprune.save wrote")
        path.open("rb").close()  # what the system refuses is said by the system
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT or "architecture" not in metadata:
                raise CheckpointError(
                    f"{path}: a safetensors file, but not one that bayesprune.save wrote; load its tensors with "
                    "safetensors"
                )
            if len(file.keys()) > MOST_TENSORS or len(metadata["architecture"]) > LONGEST_TEXT:
                raise CheckpointError(f"{path}: larger than any network; it is no file that bayesprune.save wrote")
            yield file, metadata
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file provokes
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({_line(error)}); it may be truncated. Copy or save it again"
        ) from error


def _check_identity(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file that is newer, or not what was written.

    Args:
        path: The file.
        metadata: What its head says.
        tensors: What it holds.
    """
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise CheckpointError(
            f"{path}: format version {version[:20]}, this bayesprune reads up to {VERSION}; upgrade bayesprune"
        )
    if metadata.get("sha256") != _digest(version, metadata["architecture"], tensors, metadata.get("run")):
        raise CheckpointError(
            f"{path}: its SHA-256 does not match what it holds: damaged or changed after saving. Save or copy it again"
        )


def _digest(version: str, architecture: str, tensors: Mapping[str, Tensor], run: str | None = None) -> str:
    """SHA-256 over version, architecture, run and every tensor with its name, dtype and shape.

    Args:
        version: Of the format.
        architecture: As JSON.
        tensors: By name.
        run: The name of the run, if there is one.
    """
    digest = hashlib.sha256()
    fields: list[Any] = [FORMAT, version, architecture, *([] if run is None else ["run", run])]
    for name in sorted(tensors):
        value = tensors[name]
        fields += [
            name,
            str(value.dtype),
            str(tuple(value.shape)),
            value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        ]
    for part in fields:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:500] or type(error).__name__
