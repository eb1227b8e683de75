"""Decoded images in one file, so that the next run need not decode them again."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bayesprune.atomic import write_atomically


def read_cache(path: Path, key: str, counts: dict[str, int]) -> dict[str, Tensor] | None:
    """The images that `write_cache` wrote to ``path``, or ``None`` unless they are all there, unchanged, under ``key``.

    Args:
        path: The file.
        key: What the images were made from.
        counts: Number of images to expect in each split, by its name.

    Returns:
        Images by the name of the split, shape ``(N, 3, H, W)``, uint8.
    """
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("key") != key:
                return None
            images = {name: file.get_tensor(name).clone() for name in counts}  # the file itself is only mapped
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return None
    for name, count in counts.items():
        if images[name].dtype != torch.uint8 or images[name].dim() != 4 or images[name].shape[:2] != (count, 3):
            return None
    return images if about.get("digest") == _digest(images) else None


def write_cache(path: Path, key: str, images: dict[str, Tensor]) -> None:
    """Write ``images`` to ``path``, whole or not at all; where that is impossible, warn and do without.

    Args:
        path: The file.
        key: What the images were made from.
        images: Images by the name of the split, shape ``(N, 3, H, W)``, uint8, contiguous.
    """
    try:
        write_atomically(path, save(images, {"key": key, "digest": _digest(images)}))
    except OSError as error:
        warnings.warn(
            f"imagefolder: could not keep the decoded images in {path} ({error}); every run decodes them again until "
            "the folder can be written to",
            stacklevel=2,
        )


def _digest(images: dict[str, Tensor]) -> str:
    """Checksum of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, pixels in sorted(images.items()):
        digest.update(f"{name} {tuple(pixels.shape)}\n".encode())
        digest.update(pixels.numpy().data)
    return digest.hexdigest()
