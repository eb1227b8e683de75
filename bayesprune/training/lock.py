"""One process a folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bayesprune.atomic import clear_temporaries, file_errors
from bayesprune.errors import ConfigError

LOCK = ".lock"


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Within the context no other process writes a run to ``folder``; what killed ones left half-written is removed.

    It may be entered again by the thread that is within it.

    Raises:
        ConfigError: if another process is within it.
        FileError: if nothing can be written to the folder.
    """
    path = folder / LOCK
    lock = FileLock(path, timeout=0, is_singleton=True)
    outermost = not lock.is_locked
    with file_errors("write to the folder", folder):
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"another process is training in {folder}; wait until it ends, or give this run another folder"
            ) from error
        if outermost:
            clear_temporaries(folder)
    try:
        yield
    finally:
        if outermost:
            with suppress(OSError):  # the folder may have gone
                path.unlink()  # while it is held: whoever waits for it has a new one then
        lock.release()
