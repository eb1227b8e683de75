"""Images held in memory as bytes and normalised when a batch is cut out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.data.checks import check_inputs, check_labels
from bayesprune.errors import ConfigError, DataError

_LEVELS = 256


class Raw(NamedTuple):
    """One split as read: ``images`` of shape ``(N, C, H, W)``, uint8, and ``labels`` of shape ``(N,)``, int64."""

    images: Tensor
    labels: Tensor


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels, indexed like a tensor: ``data[index]`` gives a whole batch.

    The images stay bytes: to gather a batch of bytes and normalise it takes no more time, and a quarter of the memory,
    than to gather it from normalised floats.

    Args:
        raw: Images and labels.
        mean: Mean of each channel, shape ``(C,)``, in byte values.
        std: Standard deviation of each channel, shape ``(C,)``, in byte values, > 0.

    Raises:
        ConfigError: for statistics that are no floats.

    Examples:
        >>> import torch
        >>> raw = Raw(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.tensor([7]))
        >>> Images(raw, mean=torch.tensor([127.5]), std=torch.tensor([127.5]))[:1]
        (tensor([[[[-1.,  1.]]]]), tensor([7]))
    """

    @checked_arguments
    def __init__(self, raw: Raw, mean: Tensor, std: Tensor):
        for name, statistic in (("mean", mean), ("std", std)):
            if not statistic.is_floating_point():
                raise ConfigError(f"Images: {name} must hold floats, one a channel, got {statistic.dtype}")
        self.images, self.labels = raw
        self.mean, self.std = mean, std
        self._scale = (1 / std).float().view(-1, 1, 1)
        self._shift = (-mean / std).float().view(-1, 1, 1)

    def __repr__(self) -> str:
        """How many examples there are, of which shape."""
        return f"Images({len(self):,} examples of shape {tuple(self.images.shape[1:])})"

    def __len__(self) -> int:
        """The number of examples N."""
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """Normalised images, float32, and labels, int64.

        Args:
            index: Anything that indexes the first dimension of a tensor. An int64 tensor of shape ``(B,)`` is fastest.

        Returns:
            Shapes ``(B, C, H, W)`` and ``(B,)``; without ``B`` for an integer.
        """
        if isinstance(index, Tensor) and index.dtype == torch.int64 and index.dim() == 1:
            images, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
        else:
            images, labels = self.images[index], self.labels[index]
        return self.normalise(images), labels

    def normalise(self, images: Tensor) -> Tensor:
        """A normalised copy of ``images``, float32, of the same shape.

        Args:
            images: Bytes, shape ``(..., C, H, W)``, on the device of the data.
        """
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)

    def to(self, device: str | torch.device) -> Images:
        """The same examples on ``device``, as bytes; ``self`` if they are there.

        Raises:
            ConfigError: if there is no such device here.
        """
        try:
            images, labels = self.images.to(device), self.labels.to(device)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:  # as torch says that there is no such device
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"loaders: device {str(device)!r} cannot hold the examples: {reason}") from error
        if images is self.images and labels is self.labels:
            return self
        moved = Images(Raw(images, labels), self.mean, self.std)
        moved._scale, moved._shift = self._scale.to(device), self._shift.to(device)
        return moved

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """All normalised images and labels, as in `torch.utils.data.TensorDataset`; copies the images to float32."""
        return self[:]


@dataclass(frozen=True)
class Splits:
    """A data set of images for classification.

    Attributes:
        name: The name it was loaded by.
        train: Training examples.
        test: Test examples, normalised by the statistics of ``train``.
        num_classes: Number of classes; labels are 0 to ``num_classes - 1``.
        input_shape: Shape ``(C, H, W)`` of one example.

    Examples:
        >>> from bayesprune.data import load
        >>> digits = load("digits", limit=100)
        >>> len(digits.train), len(digits.test), digits.num_classes, digits.input_shape
        (100, 360, 10, (1, 8, 8))
    """

    name: str
    train: Images
    test: Images
    num_classes: int
    input_shape: tuple[int, ...]

    def __repr__(self) -> str:
        """The name, how many examples there are of which shape, and classes."""
        return (
            f"Splits({self.name!r}, {len(self.train):,} training and {len(self.test):,} test examples of shape "
            f"{self.input_shape}, {self.num_classes} classes)"
        )


def make_splits(name: str, train: Raw, test: Raw, num_classes: int, limit: int | None = None) -> Splits:
    """Check both splits, keep the first ``limit`` training examples and normalise by what is kept.

    Args:
        name: Name of the data set.
        train: Training split as read.
        test: Test split as read.
        num_classes: Number of classes.
        limit: Number of training examples to keep, ``None`` for all.

    Raises:
        DataError: if a split is empty, its labels are wrong, or images and labels or the two splits do not fit each
            other.
        ConfigError: if ``limit`` is not between 1 and the number of training examples.
    """
    if limit is not None:
        limit = whole(f"{name}: limit", limit, 1, len(train.labels), hint="so many training examples there are")
        kept = class_mixed_order(train.labels)[:limit]
        train = Raw(train.images[kept], train.labels[kept])
    for split, part in ((train, "training"), (test, "test")):
        _check_split(split, num_classes, f"{name}, {part} split")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name}: expected training and test images of one size, found {tuple(train.images.shape[1:])} and "
            f"{tuple(test.images.shape[1:])} (channels, height, width); resize the images to one size"
        )
    mean, std = _channel_statistics(train.images)
    return Splits(name, Images(train, mean, std), Images(test, mean, std), num_classes, tuple(train.images.shape[1:]))


def class_mixed_order(labels: Tensor) -> Tensor:
    """A fixed random order, shape ``(N,)``, every beginning of which has the class mix of the whole.

    Each class is shuffled and spread evenly over [0, 1]. With K classes of equal size a beginning of n examples holds
    n/K of each, give or take one. The order depends on the labels only.
    """
    # RandomState, because its stream never changes between numpy versions.
    shuffled = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[place[shuffled].argsort(stable=True)]


def _check_split(split: Raw, num_classes: int, where: str) -> None:
    """Raise DataError unless ``split`` can be trained on or tested with."""
    check_inputs(split.images, where)
    if len(split.images) != len(split.labels):
        raise DataError(
            f"{where}: expected one label an image, found {len(split.images)} images and {len(split.labels)} labels; "
            "the files do not belong together, get them again"
        )
    check_labels(split.labels, num_classes, where)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, shape ``(C,)``, float64; deviation 1 for a constant channel."""
    levels = torch.arange(_LEVELS, dtype=torch.float64)
    counts = torch.stack([torch.bincount(channel.reshape(-1), minlength=_LEVELS) for channel in images.unbind(1)])
    shares = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels
    std = (shares * (levels - mean[:, None]) ** 2).sum(dim=1).sqrt()
    return mean, torch.where(std > 0, std, torch.ones_like(std))
