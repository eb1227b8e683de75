"""Which images are in a folder of classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from bayesprune.errors import DataError

_LAYOUT = "expected PATH/train/<class>/<image> and PATH/test/<class>/<image>"


class Listing(NamedTuple):
    """The images of one split, those of a class together.

    Attributes:
        root: Folder of the split.
        classes: Names of the classes, sorted; each is a folder in ``root``.
        paths: Files of all images.
        labels: Number of the class of each image.
    """

    root: str
    classes: list[str]
    paths: list[str]
    labels: list[int]


def list_images(folder: Path) -> Listing:
    """The images below ``folder`` and their classes, in the order of `torchvision.datasets.ImageFolder`.

    Links are followed, but a class has every folder once: a link to a folder that it lies in adds nothing.

    Raises:
        DataError: if ``folder`` is missing or cannot be listed, has no class, a class has no image, or two classes
            share a folder.
    """
    if not folder.is_dir():
        raise DataError(f"imagefolder: {_LAYOUT}, found no folder {folder}; check the path after 'imagefolder:'")
    root = str(folder)
    try:
        return _list(root)
    except OSError as error:
        raise DataError(
            f"imagefolder: could not list {root} ({error}); check the permissions of its folders"
        ) from error


def _list(root: str) -> Listing:
    """As `list_images`."""
    from torchvision.datasets.folder import IMG_EXTENSIONS  # slow to import, and other data sets need none of it

    owners: dict[str, str] = {}
    listing = Listing(root, [], [], [])
    for name in _folders(root):
        found = []
        for place in _walk(root, name):
            owner = owners.setdefault(os.path.realpath(place), name)
            if owner != name:
                raise DataError(
                    f"imagefolder: expected every folder in one class, found {os.path.realpath(place)} in {owner!r} "
                    f"and, as {place}, in {name!r}; remove the link"
                )
            files = sorted(entry.name for entry in os.scandir(place) if not entry.is_dir())
            found += [os.path.join(place, file) for file in files if file.lower().endswith(IMG_EXTENSIONS)]
        if not found:
            raise _without_images(root, f"class {name!r} has none; images end in {', '.join(IMG_EXTENSIONS)}")
        listing.paths.extend(found)
        listing.labels.extend([len(listing.classes)] * len(found))
        listing.classes.append(name)
    if not listing.classes:
        raise _without_images(root, "it holds no folders of classes")
    return listing


def _walk(root: str, name: str) -> list[str]:
    """The folder ``name`` of ``root`` and those below it, each real folder once, none that ``root`` lies in; sorted."""
    real_root = os.path.realpath(root)
    found: dict[str, str] = {}
    waiting = [os.path.join(root, name)]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real not in found and not _holds(real, real_root):
            found[real] = place
            waiting += [os.path.join(place, below) for below in reversed(_folders(place))]
    return sorted(found.values())


def _folders(place: str) -> list[str]:
    """Names of the folders in ``place``, sorted, but not of links to a folder that ``place`` lies in."""
    real = os.path.realpath(place)
    names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
    return [name for name in names if not _holds(os.path.realpath(os.path.join(place, name)), real)]


def _holds(folder: str, path: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; both are real paths."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _without_images(root: str, why: str) -> DataError:
    """The error for a split, or one of its classes, without images."""
    return DataError(
        f"imagefolder: {_LAYOUT}, found a folder without them at {root} ({why}); add images or remove empty folders"
    )
