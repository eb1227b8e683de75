"""Checkpoints: whole or not there, verified before they are believed, and read without executing anything."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import torch

from bayesprune.atomic import file_errors, write_atomically
from bayesprune.errors import CheckpointError

MAGIC = b"bayesprune checkpoint 4\n"


def write_checkpoint(path: Path, state: dict) -> None:
    """Write a state with its SHA-256 before it.

    Args:
        path: Where to.
        state: Tensors and plain values.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def read_checkpoint(path: Path) -> dict:
    """The state that `write_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: if the file is missing, not a checkpoint, truncated or altered.
    """
    path = Path(path)
    with file_errors("read", path):
        if not path.is_file():
            raise CheckpointError(f"no checkpoint at {path}; a run writes one at the end of every epoch")
        content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} is not a checkpoint of this version of bayesprune; start the run anew")
    digest, payload = content[len(MAGIC) : len(MAGIC) + 64], content[len(MAGIC) + 65 :]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is truncated or was altered: its contents do not match its checksum; start the run anew"
        )
    try:
        _check_size(payload)
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile payload provokes; what torch advises would make it dangerous
        raise CheckpointError(
            f"{path} cannot be read: it holds something else than tensors and plain values; start the run anew"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} cannot be read: it holds no table of names and values; start the run anew")
    return state


def _check_size(payload: bytes) -> None:
    """Refuse contents that grow when they are read: torch itself compresses nothing."""
    with zipfile.ZipFile(io.BytesIO(payload)) as parts:
        if sum(part.file_size for part in parts.infolist()) > len(payload):
            raise ValueError("compressed contents")
