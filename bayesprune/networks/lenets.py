"""LeCun's networks: LeNet-300-100, LeNet-5 in its 'Caffe' form 20-50-500, and that with a by-pass for every layer."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.layers import Conv2d, Gate, Linear, Residual
from bayesprune.networks.images import check_images
from bayesprune.networks.sizes import check_sizes


@checked_arguments
def lenet300(
    input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, *, widths: tuple[int, int] = (300, 100)
) -> nn.Sequential:
    """Gated LeNet-300-100, logits ``(B, num_classes)`` from inputs ``(B, *input_shape)``.

    Args:
        input_shape: Shape of one example; it is flattened.
        num_classes: Number of outputs.
        widths: Units of the two hidden layers.

    Raises:
        ConfigError: for sizes that are not whole numbers, at least 1.
    """
    check_sizes("lenet300", input_shape, widths=(widths, 2), num_classes=num_classes)
    inputs = math.prod(input_shape)
    first, second = widths
    return nn.Sequential(
        nn.Flatten(),
        Gate(inputs),
        Linear(inputs, first, gate="unit"),
        nn.ReLU(),
        Linear(first, second, gate="unit"),
        nn.ReLU(),
        nn.Linear(second, num_classes),
    )


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
    channels, features = _maps("lenet5", input_shape, num_classes, widths)
    first, second, hidden = widths
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


@checked_arguments
def lenet5_bypass(
    input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, *, widths: tuple[int, int, int] = (20, 50, 500)
) -> nn.Sequential:
    """LeNet-5 as sums y = P x + ξ · F(x), logits ``(B, num_classes)`` from images ``(B, *input_shape)``.

    F is a nonlinear section of `lenet5`: a 5x5 convolution, ReLU and max-pooling, or the hidden layer and ReLU. P is
    linear (Guenter & Sideris 2024, arXiv 2406.04549): the averages over the windows that F sees, and a 1x1 convolution
    or a linear map without bias. With every gate off the network is one linear map of averaged pixels, and `compact`
    joins what is left of the last two.

    Args:
        input_shape: ``(channels, height, width)``.
        num_classes: Number of outputs.
        widths: Maps of the two convolutions and units of the hidden layer.

    Raises:
        ConfigError: for inputs that are not images, or too small for two 5x5 convolutions with pooling.
    """
    channels, features = _maps("lenet5_bypass", input_shape, num_classes, widths)
    first, second, hidden = widths
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv1"], parts["conv2"] = _convolution(channels, first), _convolution(first, second)
    parts["flatten"] = nn.Flatten()
    body = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
    parts["hidden"] = Residual(body, nn.Linear(features, hidden, bias=False))
    parts["head"] = nn.Linear(hidden, num_classes)
    return nn.Sequential(parts)


def _convolution(inputs: int, outputs: int) -> Residual:
    """A 5x5 convolution with pooling, and the linear map that sees the same windows."""
    body = nn.Sequential(nn.Conv2d(inputs, outputs, 5), nn.ReLU(), nn.MaxPool2d(2))
    return Residual(
        body, nn.Sequential(nn.AvgPool2d(5, stride=1), nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))
    )


def _maps(name: str, input_shape: tuple[int, ...], num_classes: int, widths: tuple[int, int, int]) -> tuple[int, int]:
    """Channels of the images, and numbers in the maps of the second convolution."""
    check_sizes(name, input_shape, widths=(widths, 3), num_classes=num_classes)
    check_images(name, input_shape, 16, "use lenet300 or resmlp for smaller inputs")
    channels, height, width = input_shape
    return channels, widths[1] * math.prod(((side - 4) // 2 - 4) // 2 for side in (height, width))
