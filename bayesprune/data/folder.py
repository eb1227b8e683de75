"""Images in folders named after their classes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bayesprune.data.cache import read_cache, write_cache
from bayesprune.data.checks import check_classes
from bayesprune.data.decoding import VERSION, decode, file_state
from bayesprune.data.images import Raw
from bayesprune.data.listing import Listing, list_images
from bayesprune.errors import DataError

_CACHE = ".cache-bayesprune.safetensors"


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
    train, test = list_images(path / "train"), list_images(path / "test")
    check_classes(train.classes, test.classes, f"imagefolder {path}")
    listings = {"train": train, "test": test}
    key = _fingerprint(listings)
    images = read_cache(path / _CACHE, key, {part: len(listing.paths) for part, listing in listings.items()})
    if images is None:
        images = {part: _decode(listing.paths) for part, listing in listings.items()}
        if images["train"].shape[1:] == images["test"].shape[1:]:  # make_splits refuses all others
            write_cache(path / _CACHE, key, images)
    raw_train, raw_test = (Raw(images[part], torch.tensor(listing.labels)) for part, listing in listings.items())
    return raw_train, raw_test, len(train.classes)


def _fingerprint(listings: dict[str, Listing]) -> str:
    """What changes when an image is added, removed, renamed or written to, but not when all are moved together."""
    digest = hashlib.sha256(f"{VERSION}\n".encode())
    for part, listing in listings.items():
        for path in sorted(listing.paths):
            state = file_state(path)
            digest.update(os.fsencode(part + path.removeprefix(listing.root)))
            digest.update(f"\0{state.st_size} {state.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _decode(paths: list[str]) -> Tensor:
    """The images in the files ``paths``, shape ``(N, 3, H, W)``, uint8."""
    first = decode(paths[0])
    try:
        images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    except MemoryError as error:
        raise DataError(
            f"imagefolder: expected images that fit into memory, found {len(paths)} of {first.shape[1]}x"
            f"{first.shape[0]} (width x height) beside {paths[0]}; resize the images"
        ) from error
    for number, path in enumerate(paths):
        pixels = decode(path)
        if pixels.shape != first.shape:
            raise DataError(
                f"imagefolder: expected images of one size, found {first.shape[1]}x{first.shape[0]} (width x height) "
                f"in {paths[0]} and {pixels.shape[1]}x{pixels.shape[0]} in {path}; resize the images to one size"
            )
        images[number] = pixels
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
