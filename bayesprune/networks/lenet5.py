"""LeNet-5 in its 'Caffe' form 20-50-500, with gates on maps, flattened features and hidden units."""

from __future__ import annotations

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.layers import Conv2d, Gate, Linear
from bayesprune.networks.images import check_images
from bayesprune.networks.sizes import check_sizes


@checked_arguments
def lenet5(
    input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, *, widths: tuple[int, int, int] = (20, 50, 500)
) -> nn.Sequential:
    """Gated LeNet-5, logits ``(B, num_classes)`` from images ``(B, *input_shape)``.

    Args:
        input_shape: ``(channels, height, width)``.
        num_classes: Number of outputs.
        widths: Maps of the two convolutions and units of the hidden layer.

    Raises:
        ConfigError: for inputs that are not images, or too small for two 5x5 convolutions with pooling.
    """
    check_sizes("lenet5", input_shape, widths=(widths, 3), num_classes=num_classes)
    check_images("lenet5", input_shape, 16, "use lenet300 or resmlp for smaller inputs")
    channels, *size = input_shape
    first, second, hidden = widths
    height, width = (((side - 4) // 2 - 4) // 2 for side in size)
    features = second * height * width
    return nn.Sequential(
        Conv2d(channels, first, 5, gate="unit"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Conv2d(first, second, 5, gate="unit"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        Gate(features),
        Linear(features, hidden, gate="unit"),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
