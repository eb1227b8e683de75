"""One file that holds a plain network, architecture and weights; loading it runs no code from it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import write_atomically
from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.graph import gates_of, trace
from bayesprune.pruning.architecture import describe, rebuild
from bayesprune.pruning.compact import gated_network

FORMAT = "bayesprune.model"
VERSION = 1


@checked_arguments
def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a compacted network, or any traceable network of standard torch layers, to one safetensors file.

    The file holds the tensors and, as metadata, the architecture (JSON), a format version, and a SHA-256 of both. The
    digest finds damage; it is no signature. The file is written whole or not at all.

    Args:
        model: A network without gates.
        path: File to write; its folder must exist.

    Raises:
        ConfigError: for a network with gates, parts that a model file cannot hold, or a folder that does not exist.
        TraceError: for a network whose forward pass cannot be followed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ConfigError(f"save: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise ConfigError(f"save: {path} is a folder; give the name of a file")
    if gates_of(gated_network(model)):
        raise ConfigError(
            "save: the network still has gates; save bayesprune.compact(model), the plain network. What else there is "
            "of a posterior fit(..., out=FOLDER) keeps in its checkpoint, and torch.save writes a BayesianNet whole"
        )
    modes = {name: module.training for name, module in model.named_modules()}
    traced = trace(copy.deepcopy(model).eval())
    used = {str(n.target) for n in traced.graph.nodes if n.op in ("call_module", "get_attr")}
    state = traced.net.state_dict()
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in state.items()
        if name in used or name.rpartition(".")[0] in used
    }
    missing = {str(n.target) for n in traced.graph.nodes if n.op == "get_attr"} - tensors.keys()
    if missing:
        raise ConfigError(
            f"save: tensors {sorted(missing)} are not in the network's state_dict; register them as parameters or "
            "persistent buffers"
        )
    architecture = json.dumps(describe(traced, modes), sort_keys=True, allow_nan=False)
    try:
        rebuild(json.loads(architecture), tensors)
    except Exception as error:
        raise ConfigError(f"save: the network cannot be built from its parts again: {error}") from error
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": architecture,
        "sha256": _digest(str(VERSION), architecture, tensors),
    }
    _write(path, to_bytes(tensors, metadata))


@checked_arguments
def load(path: str | os.PathLike[str]) -> nn.Module:
    """Read a network that `save` wrote, onto the CPU. It needs neither the code nor the network it came from.

    Returns:
        A ``torch.fx.GraphModule`` in the training mode it was saved in.

    Raises:
        CheckpointError: for a file that is missing, truncated, tampered with, newer, or made by something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; give a file that bayesprune.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); it may be truncated. Copy or save it again"
        ) from error
    _check_identity(path, metadata, tensors)
    try:
        return rebuild(json.loads(metadata["architecture"]), tensors)
    except Exception as error:  # whatever a hostile description provokes
        raise CheckpointError(f"{path}: its architecture is refused: {error}. Save the network again") from error


def _check_identity(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file that is not ours, newer, or not what was written."""
    if metadata.get("format") != FORMAT or "architecture" not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one that bayesprune.save wrote; load its tensors with safetensors"
        )
    version = metadata.get("version", "")
    if version.isdecimal() and int(version) > VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this bayesprune reads up to {VERSION}; upgrade bayesprune"
        )
    if metadata.get("sha256") != _digest(version, metadata["architecture"], tensors):
        raise CheckpointError(
            f"{path}: its SHA-256 does not match what it holds: damaged or changed after saving. Save or copy it again"
        )


def _digest(version: str, architecture: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over version, architecture and every tensor with its name, dtype and shape."""
    digest = hashlib.sha256()
    fields: list[Any] = [FORMAT, version, architecture]
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


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"save: cannot write to {path.parent}: {error.strerror or error}") from error
