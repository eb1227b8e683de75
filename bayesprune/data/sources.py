"""Data sets by name."""

from __future__ import annotations

import os
import tempfile
from os.path import expanduser, isdir
from pathlib import Path
from typing import Any

import torch

from bayesprune.arguments import checked_arguments
from bayesprune.checked import meant
from bayesprune.data.folder import read_folder
from bayesprune.data.images import Raw, Splits, make_splits
from bayesprune.errors import ConfigError, DataError

_FOLDER_PREFIX = "imagefolder:"
_LARGEST_FILE = 1 << 30
"""Bytes. The files of these data sets are far smaller, and what is larger would be read into memory whole."""
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


@checked_arguments
def load(name: str, *, data_dir: str | Path = "data", limit: int | None = None, download: bool = True) -> Splits:
    """Read a data set into memory, check it, and normalise it by the statistics of its training split.

    Args:
        name: ``digits`` (scikit-learn's handwritten digits, 8×8, a fixed stratified split with 20 % for testing),
            ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100`` (torchvision's own classes) or ``imagefolder:PATH``
            (PATH/train/<class>/…, PATH/test/<class>/…, read as RGB).
        data_dir: Folder of torchvision's data sets, laid out as torchvision does (``data_dir/MNIST/raw``).
        limit: Number of training examples to use: the first of a fixed order that keeps the class mix, the same for
            every seed. The test split stays whole.
        download: Whether a torchvision data set that is not in ``data_dir`` may be downloaded to it.

    Raises:
        ConfigError: for an unknown name or a ``limit`` outside 1 to the number of training examples.
        DataError: if files are missing or damaged and cannot be downloaded, or hold what a classifier cannot be
            trained on.
    """
    return named_data("load", name, data_dir, limit, download=download)


def named_data(
    where: str, name: str, data_dir: str | Path, limit: int | None = None, *, download: bool = True
) -> Splits:
    """What `load` gives; a name that is none is refused in the words of who asks for it.

    Args:
        where: Who asks, such as ``--data``: what the message begins with.
        name: As for `load`.
        data_dir: As for `load`.
        limit: As for `load`.
        download: As for `load`.

    Raises:
        BayesPruneError: as `load`.
    """
    if name == "digits":
        parts = _digits()
    elif name in _TORCHVISION:
        parts = _torchvision(name, Path(data_dir).expanduser(), download)
    elif name.startswith(_FOLDER_PREFIX) and name != _FOLDER_PREFIX:
        parts = read_folder(Path(name[len(_FOLDER_PREFIX) :]).expanduser())
    else:
        known = ["digits", *_TORCHVISION, f"{_FOLDER_PREFIX}PATH"]
        folder = f"; for the folder of that name write {_FOLDER_PREFIX}{name}" if isdir(expanduser(name)) else ""
        raise ConfigError(
            f"{where}: expected the name of a data set, one of {', '.join(known)}; got {name!r}{meant(name, known)}"
            f"{folder}"
        )
    train, test, num_classes = parts
    return make_splits(name, train, test, num_classes, limit)


def _digits() -> tuple[Raw, Raw, int]:
    """The 1797 handwritten digits of scikit-learn, bytes from 0 to 16."""
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    data = load_digits()
    rows = train_test_split(range(len(data.target)), test_size=0.2, stratify=data.target, random_state=0)
    images = torch.from_numpy(data.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(data.target).to(torch.int64)
    train, test = (Raw(images[part], labels[part]) for part in rows)
    return train, test, len(data.target_names)


def _torchvision(name: str, folder: Path, download: bool) -> tuple[Raw, Raw, int]:
    """A data set by torchvision's class for it, read from ``folder``, to which it is downloaded if need be."""
    from torchvision import datasets  # slow to import, and the default data set needs none of it

    dataset = getattr(datasets, _TORCHVISION[name])
    if download and not all(path.is_file() for path in _files(dataset, folder)):
        try:
            _download(dataset, folder)
        except Exception as error:  # the network and the mirrors fail in many ways
            raise DataError(f"{name}: the download failed ({_said(error)}). {_advice(dataset, folder)}") from error
    for path in _files(dataset, folder):
        if path.is_file() and path.stat().st_size > _LARGEST_FILE:
            raise DataError(
                f"{name}: expected files of at most {_LARGEST_FILE >> 20} MiB, found {path.stat().st_size >> 20} MiB. "
                f"{_advice(dataset, folder)}"
            )
    try:
        splits = [dataset(str(folder), train=train, download=False) for train in (True, False)]
        train, test = (_raw(split) for split in splits)
    except Exception as error:  # torchvision raises whatever its readers meet in a damaged file
        raise DataError(f"{name}: could not read its files ({_said(error)}). {_advice(dataset, folder)}") from error
    return train, test, len(splits[0].classes)


def _raw(split: Any) -> Raw:
    """Images and labels of a torchvision data set that keeps them in memory."""
    images = torch.as_tensor(split.data)
    if images.dtype != torch.uint8:
        raise TypeError(f"expected images of bytes, found {images.dtype}")
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Raw(images, torch.as_tensor(split.targets, dtype=torch.int64))


def _download(dataset: Any, folder: Path) -> None:
    """Download into a temporary folder inside ``folder``, then move each file to its place: none is half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        for train in (True, False):
            dataset(temporary, train=train, download=True)
        for path in [path for path in Path(temporary).rglob("*") if path.is_file()]:
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def _files(dataset: Any, folder: Path) -> list[Path]:
    """The files that torchvision reads ``dataset`` from."""
    if hasattr(dataset, "resources"):
        return [folder / dataset.__name__ / "raw" / file.removesuffix(".gz") for file, _ in dataset.resources]
    names = [file for file, _ in dataset.train_list + dataset.test_list] + [dataset.meta["filename"]]
    return [folder / dataset.base_folder / file for file in names]


def _said(error: Exception) -> str:
    """An error on one line, with its kind: many say little else."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _advice(dataset: Any, folder: Path) -> str:
    """Which files were looked for where, which were found, and what to try."""
    files = _files(dataset, folder)
    state = ", ".join(f"{path.name} ({'found' if path.is_file() else 'missing'})" for path in files)
    return (
        f"Looked in {files[0].parent} for {state}. Put the missing files there, allow the download where there is a "
        "network, or point the data folder (--data-dir) at one that has them; delete files that are damaged"
    )
