"""The folder of a run: made, checked, and not left behind half-made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bayesprune.errors import BayesPruneError, ConfigError

CHECKPOINT = "checkpoint.pt"
MODEL = "model.safetensors"
RESULT = "result.json"
RELIABILITY = "reliability.png"


def check_new(folder: Path) -> None:
    """Refuse a folder that a new run cannot have; makes nothing.

    Raises:
        ConfigError: if it is a file, or holds anything.
    """
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ConfigError(
                f"the output folder {folder} exists and is not empty; choose another --out, or continue the run in it "
                f"with --resume {folder}"
            )
    elif folder.exists():
        raise ConfigError(f"the output folder {folder} exists and is not a folder; choose another --out")


@contextmanager
def new_folder(folder: Path, checkpoint: str) -> Iterator[None]:
    """Make ``folder`` for a run. If the run is refused before its first checkpoint, take everything away again.

    Args:
        folder: The folder; it may exist if it is empty.
        checkpoint: Name of the file without which there is nothing to resume.

    Raises:
        ConfigError: if the folder cannot be made or written to.
    """
    check_new(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        _remove_folders(made)
        raise ConfigError(
            f"cannot write to the output folder {folder} ({error.strerror or error}); choose another --out"
        ) from error
    try:
        yield
    except BayesPruneError:
        if not (folder / checkpoint).exists():
            for path in folder.iterdir():
                path.unlink()
            _remove_folders(made)
        raise


def _remove_folders(made: list[Path]) -> None:
    """Remove empty folders, innermost first."""
    for path in made:
        if path.is_dir():
            path.rmdir()
