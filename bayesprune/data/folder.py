"""Images in folders named after their classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bayesprune.data.checks import check_classes
from bayesprune.data.images import Raw
from bayesprune.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

_LAYOUT = "expected PATH/train/<class>/<image> and PATH/test/<class>/<image>"


def read_folder(path: Path) -> tuple[Raw, Raw, int]:
    """Decode ``path``/train/<class>/… and ``path``/test/<class>/…, as `torchvision.datasets.ImageFolder` lists them.

    All images are read as RGB, C = 3, and must be of one size.

    Returns:
        Training split, test split, number of classes.

    Raises:
        DataError: if a folder is missing or empty, the classes of the splits differ, an image cannot be read or the
            images are not of one size.
    """
    train, test = _list(path / "train"), _list(path / "test")
    check_classes(train.classes, test.classes, f"imagefolder {path}")
    return _decode(train), _decode(test), len(train.classes)


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


def _decode(listing: ImageFolder) -> Raw:
    """All images of ``listing`` in one tensor."""
    labels = torch.tensor(listing.targets, dtype=torch.int64)
    first = _pixels(listing, 0)
    images = np.empty((len(labels), *first.shape), dtype=np.uint8)
    for number, (path, _) in enumerate(listing.samples):
        pixels = _pixels(listing, number)
        if pixels.shape != first.shape:
            raise DataError(
                f"imagefolder: expected images of one size, found {first.shape[1]}x{first.shape[0]} (width x height) "
                f"in {listing.samples[0][0]} and {pixels.shape[1]}x{pixels.shape[0]} in {path}; resize the images to "
                "one size"
            )
        images[number] = pixels
    return Raw(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _pixels(listing: ImageFolder, number: int) -> np.ndarray:
    """Image ``number`` of ``listing``, shape ``(H, W, 3)``, uint8."""
    path = listing.samples[number][0]
    try:
        return np.asarray(listing.loader(path))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise DataError(
            f"imagefolder: expected an image in {path}, could not read it: {error}; replace or remove it"
        ) from error
