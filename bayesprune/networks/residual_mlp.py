"""A residual multi-layer perceptron with one gate on each branch: the smallest network that finds its own depth."""

from __future__ import annotations

import math

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.layers import Residual
from bayesprune.networks.depth import begin_with_few
from bayesprune.networks.sizes import check_sizes


@checked_arguments
def resmlp(
    input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, *, depth: int = 24, width: int = 64
) -> nn.Sequential:
    """Residual MLP, logits ``(B, num_classes)``: h ← h + ξ · relu(W h + b), ``depth`` times.

    As training begins, 9 of the branches are on in a step, see `networks.depth`.

    Args:
        input_shape: Shape of one example; it is flattened.
        num_classes: Number of outputs.
        depth: Number of gated branches.
        width: Width of the stream.

    Raises:
        ConfigError: for sizes that are not whole numbers, at least 1.
    """
    check_sizes("resmlp", input_shape, num_classes=num_classes, depth=depth, width=width)
    branches = [Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU())) for _ in range(depth)]
    begin_with_few(branches)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), width),
        nn.ReLU(),
        *branches,
        nn.Linear(width, num_classes),
    )
