"""The folder of a run: made, checked, and not left behind half-made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from bayesprune.atomic import TEMPORARY, file_errors, reason
from bayesprune.errors import BayesPruneError, ConfigError
from bayesprune.training.lock import LOCK, only_process

CHECKPOINT = "checkpoint.pt"
MODEL = "model.safetensors"
RESULT = "result.json"
RELIABILITY = "reliability.png"


def check_new(folder: Path, go_on: str = "") -> None:
    """Refuse a folder that a new run cannot have; makes nothing.

    Args:
        folder: The folder.
        go_on: The options by which what is in it goes on; by default those of a run.

    Raises:
        ConfigError: if it is a file, or holds anything.
        FileError: if the system cannot have a folder of that name.
    """
    with file_errors("use the output folder", folder):
        if folder.is_dir():
            if _contents(folder):
                raise ConfigError(
                    f"the output folder {folder} exists and is not empty; choose another --out, or continue the run in "
                    f"it with {go_on or f'--resume {folder}'}"
                )
        elif folder.exists():
            raise ConfigError(f"the output folder {folder} exists and is not a folder; choose another --out")


def free_folder(wanted: Path) -> Path:
    """``wanted``, or if there is anything in it the first of ``wanted-2``, ``wanted-3`` ... that is free."""
    with file_errors("use the output folder", wanted):
        names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in count(1))
        return next(path for path in names if not path.exists() or (path.is_dir() and not _contents(path)))


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` for a run. If the run is refused before its first checkpoint, take everything away again.

    Within the context no other process may train there.

    Args:
        folder: The folder; it may exist if it is empty.

    Raises:
        ConfigError: if the folder cannot be made or written to, or is that of another process.
    """
    check_new(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        _remove_folders(made)
        raise ConfigError(
            f"cannot write to the output folder {folder} ({reason(error)}); choose another --out"
        ) from error
    try:
        with only_process(folder):
            check_new(folder)  # another process may have been faster
            own = folder.stat()
            try:
                yield
            except BayesPruneError:
                if folder.is_dir() and os.path.samestat(own, folder.stat()) and not (folder / CHECKPOINT).exists():
                    for path in _contents(folder):
                        path.unlink()
                raise
    except BayesPruneError:
        _remove_folders(made)
        raise


def _contents(folder: Path) -> list[Path]:
    """What a folder holds, but for what a process leaves that is killed before it has written anything."""
    return [path for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(TEMPORARY)]


def _remove_folders(made: list[Path]) -> None:
    """Remove folders that are empty, innermost first."""
    for path in made:
        with suppress(OSError):
            path.rmdir()
