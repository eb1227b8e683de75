"""Files are whole or not there; what the system refuses is an error of ours that says what to try."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayesprune.atomic import TEMPORARY, clear_temporaries, file_errors, write_atomically
from bayesprune.errors import BayesPruneError, FileError


def failing(number: int):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "No space left on device; free space"),
        (errno.EROFS, "Read-only file system; choose a folder"),
        (errno.EIO, "Input/output error$"),
    ],
)
def test_what_was_there_stays(step: str, number: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, step, failing(number))
    with pytest.raises(FileError, match=f"cannot write .*file: {says}"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_longest_name_there_can_be_is_written_and_a_longer_one_refused(tmp_path: Path):
    write_atomically(tmp_path / ("n" * 255), b"whole")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"whole"
    with pytest.raises(FileError, match="File name too long; give a shorter name") as caught:
        write_atomically(tmp_path / ("m" * 300), b"whole")
    assert len(str(caught.value)) < 350
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_a_folder_that_went_away(tmp_path: Path):
    with pytest.raises(FileError, match="its folder is not there, it may have been moved or deleted"):
        write_atomically(tmp_path / "gone" / "file", b"")


def test_a_file_that_is_not_there_is_not_said_to_have_no_folder(tmp_path: Path):
    with pytest.raises(FileError, match=r"No such file or directory; check its name$"), file_errors("read", "nosuch"):
        (tmp_path / "nosuch").read_bytes()


def test_the_error_is_ours_and_the_systems():
    with pytest.raises(BayesPruneError) as caught, file_errors("read", "name"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert isinstance(caught.value, OSError) and isinstance(caught.value.__cause__, FileNotFoundError)


def test_only_our_temporary_files_are_cleared(tmp_path: Path):
    (tmp_path / f"{TEMPORARY}abc").write_text("half")
    (tmp_path / ".hidden").write_text("mine")
    clear_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 kB, where this process may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk(small_disk: Path):
    path = small_disk / "file"
    write_atomically(path, b"o" * 60_000)
    with pytest.raises(FileError, match="No space left on device; free space"):
        write_atomically(path, b"n" * 60_000)
    assert path.read_bytes() == b"o" * 60_000 and list(small_disk.iterdir()) == [path]
