"""LeNet-300-100: a multi-layer perceptron with gates on its inputs and on both hidden layers (LeCun et al. 1998)."""

from __future__ import annotations

import math

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.layers import Gate, Linear
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
