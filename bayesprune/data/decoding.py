"""Image files as pixels."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import numpy as np

from bayesprune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

VERSION = 2
"""Goes up whenever the pixels of some file change, so that images decoded earlier are not taken for these."""

_BITS_PER_SAMPLE = 258  # a tag of TIFF


def file_state(path: str) -> os.stat_result:
    """Size and times of the image file ``path``.

    Raises:
        DataError: if it is missing, or no file but a pipe, a socket or a device, from which reading might never end.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(state.st_mode):
        raise _unreadable(path, ValueError("it is a pipe, a socket or a device"))
    return state


def decode(path: str) -> np.ndarray:
    """The image in ``path`` as it is to be looked at, turned as its EXIF orientation says; shape ``(H, W, 3)``, uint8.

    Colours are those of Pillow and torchvision: grey gives three equal channels, transparency is dropped. Samples of 16
    bits are scaled to bytes, v ↦ 255 v / 65535, rounded.

    Raises:
        DataError: if it cannot be read, or its samples are floats or 32-bit integers, whose black and white no file
            states.
    """
    from PIL import Image, ImageOps  # slow to import

    try:
        with Image.open(path) as picture:
            _check_samples(picture)
            white = _white(picture)
            upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            grey = np.asarray(upright).astype(np.float64).clip(0, white) * (255 / white)
            return np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, axis=2)
        if upright.mode == "P":
            upright = upright.convert("RGBA")  # Pillow warns of palettes with transparency that go to RGB directly
        return np.asarray(upright.convert("RGB"))
    except Exception as error:  # Pillow raises whatever its readers meet in a damaged file
        raise _unreadable(path, error) from error


def _check_samples(picture: Image.Image) -> None:
    """Refuse samples whose black and white are not known; integers of Pillow's that were 16 bits in the file are."""
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        kind = "floats" if picture.mode == "F" else "integers of 32 bits"
        raise ValueError(
            f"its samples are {kind}, and no file says which are black and white; save it with 8 or 16 bits"
        )


def _white(picture: Image.Image) -> int:
    """The sample that is white, where samples have more than 8 bits: 65535, or less where a TIFF states fewer bits."""
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return (1 << int(bits[0])) - 1


def _unreadable(path: str, error: Exception) -> DataError:
    """The error for an image that cannot be read."""
    return DataError(f"imagefolder: expected an image in {path}, could not read it: {error}; replace or remove it")
