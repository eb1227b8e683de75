"""Random crops and flips of a whole batch at once, on the device that holds the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.data.images import Images
from bayesprune.errors import ConfigError

# Not 0: numpy's generator of (seed, epoch, 0) is that of (seed, epoch), from which the order is drawn.
_STREAM = 1


@checked_arguments
@dataclass(frozen=True)
class Augment:
    """How training images are varied: a crop of the image with a black border, then a mirror image or not.

    The standard augmentation of small images (He, Zhang, Ren and Sun 2016, "Deep residual learning for image
    recognition", section 4.2). The border is 0 before normalisation.

    Attributes:
        pad: Width of the border in pixels; 0 leaves the images where they are.
        flip: Whether an image is mirrored left to right with probability ½.

    Raises:
        ConfigError: if ``pad`` is negative.

    Examples:
        >>> Augment(pad=2, flip=False).draw(count=3, seed=0, epoch=0).shape
        (3, 3)
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad", whole("Augment: pad", self.pad, 0))

    def draw(self, count: int, seed: int, epoch: int) -> np.ndarray:
        """Draw the crop and the flip for every place in the order of one epoch, from (seed, epoch) alone.

        Args:
            count: Number of places N.
            seed: Seed, ≥ 0.
            epoch: Number of the epoch, ≥ 0.

        Returns:
            Shape ``(3, N)``, int64: the crop's first row and first column in the image with its border, both in
            {0, ..., 2 pad}, and 1 for a flip, 0 for none.
        """
        generator = np.random.default_rng((seed, epoch, _STREAM))
        corners = generator.integers(0, 2 * self.pad + 1, (2, count))
        flips = generator.integers(0, 1 + self.flip, (1, count))
        return np.concatenate([corners, flips])


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images of which a batch is cut out and varied together: one gather of bytes, normalised afterwards.

    Args:
        data: The images, on the device on which batches are made.
        augment: How they are varied.

    Raises:
        ConfigError: if the border is as wide as the images.
    """

    def __init__(self, data: Images, augment: Augment):
        height, width = data.images.shape[2:]
        if augment.pad >= min(height, width):
            raise ConfigError(
                f"Augment: pad must be smaller than the images, which are {height} x {width} (height x width), got "
                f"{augment.pad}; a crop could miss the image"
            )
        self.data, self.augment = data, augment
        device = data.images.device
        self._rows = torch.arange(height, device=device)
        self._columns = torch.arange(width, device=device)

    def __len__(self) -> int:
        """The number of examples N."""
        return len(self.data)

    def __getitem__(self, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Varied and normalised images, float32, and labels, int64.

        Args:
            plan: Shape ``(4, B)``, int64, on the images' device: numbers of the examples, then the rows of
                `Augment.draw`.

        Returns:
            Shapes ``(B, C, H, W)`` and ``(B,)``.
        """
        numbers, top, left, flips = plan
        images = F.pad(self.data.images.index_select(0, numbers), (self.augment.pad,) * 4)
        size, channels, _, stride = images.shape
        height, width = len(self._rows), len(self._columns)
        rows = top[:, None] + self._rows
        columns = (left + flips * (width - 1))[:, None] + (1 - 2 * flips)[:, None] * self._columns
        places = (rows[:, :, None] * stride + columns[:, None, :]).view(size, 1, height * width)
        crops = images.flatten(2).gather(2, places.expand(-1, channels, -1))
        return self.data.normalise(crops.view(size, channels, height, width)), self.data.labels.index_select(0, numbers)
