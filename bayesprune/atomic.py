"""Files that are either whole or not there, and what it means when the system refuses one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bayesprune.errors import FileError

TEMPORARY = ".bayesprune-"
"""How the names of files begin that are not whole yet. They are short, whatever the name of the file is to be."""

ADVICE = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space within your quota",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENOENT: "its folder is not there, it may have been moved or deleted",
    errno.ENOTDIR: "a part of its path is a file",
}
"""What to try, by the number of the system's error."""


@contextmanager
def file_errors(doing: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says of a file into an error that says what to try.

    Args:
        doing: What is done with the file, for example ``"write"``.
        path: The file or folder.

    Raises:
        FileError: for every `OSError` within the context.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        there = error.errno == errno.ENOENT and Path(path).parent.is_dir()
        why = f"{error.strerror}; check its name" if there else reason(error)
        raise FileError(f"cannot {doing} {_short(path)}: {why}") from error


def reason(error: OSError) -> str:
    """What the system said, and what to try."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{said}; {ADVICE[error.errno]}" if error.errno in ADVICE else said


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a killed process leaves the old file or the new one, nothing between.

    Args:
        path: The file.
        content: All of what it is to hold.

    Raises:
        FileError: if it cannot be written; an old file is then as it was.
    """
    path = Path(path)
    with file_errors("write", path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def clear_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written; only for one who has ``folder`` to himself."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _short(path: str | os.PathLike[str]) -> str:
    """A path as it is shown: of one that is too long the beginning and the end."""
    text = os.fspath(path)
    return text if len(text) <= 160 else f"{text[:100]}...{text[-50:]}"
