"""Images in folders named after their classes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bayesprune.data.cache import read_cache, write_cache
from bayesprune.data.checks import check_classes
from bayesprune.data.images import Raw
from bayesprune.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

_CACHE = ".cache-bayesprune.safetensors"
_LAYOUT = "expected PATH/train/<class>/<image> and PATH/test/<class>/<image>"


def read_folder(path: Path) -> tuple[Raw, Raw, int]:
    """Decode ``path``/train/<class>/… and ``path``/test/<class>/…, as `torchvision.datasets.ImageFolder` lists them.

    All images are read as RGB, C = 3, and must be of one size. Decoded images are kept in one file,
    ``path``/.cache-bayesprune.safetensors. It is used while name, size and time of change of every image stay as they
    are, and may be deleted at any time.

    Returns:
        Training split, test split, number of classes.

    Raises:
        DataError: if a folder is missing or empty, the classes of the splits differ, an image cannot be read or the
            images are not of one size.
    """
    train, test = _list(path / "train"), _list(path / "test")
    check_classes(train.classes, test.classes, f"imagefolder {path}")
    listings = {"train": train, "test": test}
    key = _fingerprint(listings)
    images = read_cache(path / _CACHE, key, {part: len(listing.samples) for part, listing in listings.items()})
    if images is None:
        images = {part: _decode(listing) for part, listing in listings.items()}
        if images["train"].shape[1:] == images["test"].shape[1:]:  # make_splits refuses all others
            write_cache(path / _CACHE, key, images)
    raw_train, raw_test = (Raw(images[part], _labels(listing)) for part, listing in listings.items())
    return raw_train, raw_test, len(train.classes)


def _list(folder: Path) -> ImageFolder:
    """The images below ``folder`` and their classes."""
    from torchvision.datasets import ImageFolder  # slow to import, and the default data set needs none of it

    if not folder.is_dir():
        raise DataError(f"imagefolder: {_LAYOUT}, found no folder {folder}; check the path after 'imagefolder:'")
    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(
            f"imagefolder: {_LAYOUT}, found a folder without them at {folder} ({error}); add images or remove "
            "empty folders"
        ) from error


def _fingerprint(listings: dict[str, ImageFolder]) -> str:
    """What changes when an image is added, removed, renamed or written to, but not when all are moved together."""
    digest = hashlib.sha256()
    for part, listing in listings.items():
        for path, _ in sorted(listing.samples):
            try:
                state = os.stat(path)
            except OSError as error:
                raise _unreadable(path, error) from error
            digest.update(os.fsencode(part + path.removeprefix(str(listing.root))))
            digest.update(f"\0{state.st_size} {state.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _labels(listing: ImageFolder) -> Tensor:
    """Class numbers of all images, shape ``(N,)``, int64."""
    return torch.tensor(listing.targets, dtype=torch.int64)


def _decode(listing: ImageFolder) -> Tensor:
    """All images of ``listing``, shape ``(N, 3, H, W)``, uint8."""
    first = _pixels(listing, 0)
    images = np.empty((len(listing.samples), *first.shape), dtype=np.uint8)
    for number, (path, _) in enumerate(listing.samples):
        pixels = _pixels(listing, number)
        if pixels.shape != first.shape:
            raise DataError(
                f"imagefolder: expected images of one size, found {first.shape[1]}x{first.shape[0]} (width x height) "
                f"in {listing.samples[0][0]} and {pixels.shape[1]}x{pixels.shape[0]} in {path}; resize the images to "
                "one size"
            )
        images[number] = pixels
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _pixels(listing: ImageFolder, number: int) -> np.ndarray:
    """Image ``number`` of ``listing``, shape ``(H, W, 3)``, uint8."""
    path = listing.samples[number][0]
    try:
        return np.asarray(listing.loader(path))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    """The error for an image that cannot be read."""
    return DataError(f"imagefolder: expected an image in {path}, could not read it: {error}; replace or remove it")
