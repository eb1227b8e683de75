"""Data sets, checked when they are read, and loaders that cut a batch out of memory with one index operation."""

from bayesprune.data.augment import Augment
from bayesprune.data.batches import EpochLoader, loaders
from bayesprune.data.checks import check_classes, check_inputs, check_labels
from bayesprune.data.images import Images, Splits
from bayesprune.data.sources import load

__all__ = [
    "Augment",
    "EpochLoader",
    "Images",
    "Splits",
    "check_classes",
    "check_inputs",
    "check_labels",
    "load",
    "loaders",
]
