"""Full disks, names that are too long, folders that are read-only or gone: one line, and nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from bayesprune.errors import FileError
from bayesprune.pruning import export_onnx, export_torch, load, read_run, save

X = torch.zeros(2, 3)
WRITERS: dict[str, tuple[str, Callable[[nn.Module, Path], None]]] = {
    "save": (".safetensors", save),
    "export_torch": (".pt2", lambda net, path: export_torch(net, X, path)),
    "export_onnx": (".onnx", lambda net, path: export_onnx(net, X, path)),
}


def net_of(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


@pytest.fixture(params=["save", "export_torch", pytest.param("export_onnx", marks=pytest.mark.slow)])
def writer(request: pytest.FixtureRequest) -> tuple[str, Callable[[nn.Module, Path], None]]:
    if request.param == "export_onnx":
        pytest.importorskip("onnxscript")
    return WRITERS[request.param]


def verify_one_line(error: pytest.ExceptionInfo[FileError]) -> None:
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_names_that_are_too_long(writer: tuple[str, Callable], tmp_path: Path) -> None:
    ending, write = writer
    with pytest.raises(FileError, match=r"cannot write .*name too long.*give a shorter name") as error:
        write(net_of(4), tmp_path / ("a" * 300 + ending))
    verify_one_line(error)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("read", [load, read_run])
def test_names_that_are_too_long_to_read(read: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*name too long.*give a shorter name") as error:
        read(tmp_path / ("a" * 300))
    verify_one_line(error)


@pytest.mark.parametrize("read", [load, read_run])
def test_files_that_may_not_be_read(read: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save(net_of(4), path)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FileError, match=r"cannot read .*net\.safetensors: Permission denied") as error:
        read(path)
    verify_one_line(error)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_up(
    writer: tuple[str, Callable], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, write = writer
    path = tmp_path / f"net{ending}"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(FileError, match=r"cannot write .*No space left.*free space") as error:
            write(net_of(4), path)
    verify_one_line(error)
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"old"


def test_a_folder_that_vanishes(writer: tuple[str, Callable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, write = writer
    folder = tmp_path / "run"
    folder.mkdir()
    is_dir = Path.is_dir

    def gone_after(path: Path) -> bool:
        there = is_dir(path)
        if path == folder and there:
            folder.rmdir()
        return there

    monkeypatch.setattr(Path, "is_dir", gone_after)
    with pytest.raises(FileError, match=r"cannot write .*may have been moved or deleted") as error:
        write(net_of(4), folder / f"net{ending}")
    verify_one_line(error)
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(writer: tuple[str, Callable], tmp_path: Path) -> None:
    ending, write = writer
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match=r"cannot write .*choose a folder that you may write to"):
        write(net_of(4), tmp_path / f"net{ending}")
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk(writer: tuple[str, Callable], small_disk: Path) -> None:
    ending, write = writer
    path = small_disk / f"net{ending}"
    write(net_of(4), path)
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"cannot write .*No space left.*free space") as error:
        write(net_of(30_000), path)
    verify_one_line(error)
    assert os.listdir(small_disk) == [path.name] and path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_read_only(writer: tuple[str, Callable], small_disk: Path) -> None:
    ending, write = writer
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(FileError, match=r"cannot write .*Read-only file system.*can be written to") as error:
        write(net_of(4), small_disk / f"net{ending}")
    verify_one_line(error)
