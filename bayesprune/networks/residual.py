"""The residual networks for small images, with one gate on each branch (He et al. 2016, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Residual
from bayesprune.networks.depth import begin_shallow
from bayesprune.networks.images import check_images, conv_norm, initialise
from bayesprune.networks.sizes import check_sizes


@checked_arguments
def resnet(
    depth: int = 20,
    input_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    *,
    width: int = 16,
    units: bool = False,
) -> nn.Sequential:
    """Gated ResNet of ``depth`` = 6n + 2 layers, logits ``(B, num_classes)`` from images ``(B, *input_shape)``.

    Three stages of n blocks, of ``width``, 2 ``width`` and 4 ``width`` channels. A block is relu(x + ξ · F(x)), F two
    3x3 convolutions, each with its normalisation; the gate multiplies after the last one. Where a stage begins, the
    by-pass is a strided 1x1 convolution with normalisation (the paper's option B). With the default width, 20 layers
    have 0.27 M parameters, 56 have 0.86 M, and 110 have 1.7 M. As training begins, 9 of the branches are on in a
    step, nearly always the first three of every stage, see `networks.depth`.

    Args:
        depth: 20, 32, 44, 56, 110, ...; ``depth`` = 50 is 6 · 8 + 2 layers here, not `resnet50`.
        input_shape: ``(channels, height, width)``.
        num_classes: Number of outputs.
        width: Channels of the first stage.
        units: Whether to gate also the channels between the two convolutions of every branch.

    Raises:
        ConfigError: for another depth, inputs that are not images, or too small to be halved twice.
    """
    depth = whole("resnet: depth", depth)
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        valid = [d for d in (6 * blocks + 2, 6 * blocks + 8) if d >= 8] or [8]
        raise ConfigError(
            f"resnet: depth must be 6n + 2 (n blocks of two layers in each of three stages), got {depth}; try "
            f"{' or '.join(map(str, valid))}"
        )
    check_sizes("resnet", input_shape, num_classes=num_classes, width=width)
    check_images("resnet", input_shape, 4, "use lenet300 or resmlp for other inputs")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["stem"] = nn.Sequential(*conv_norm(input_shape[0], width), nn.ReLU())
    parts["stage1"] = _stage([width] * (blocks + 1), 1, units)
    parts["stage2"] = _stage([width] + [2 * width] * blocks, 2, units)
    parts["stage3"] = _stage([2 * width] + [4 * width] * blocks, 2, units)
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["head"] = nn.Linear(4 * width, num_classes)
    net = nn.Sequential(parts)
    initialise(net)
    return net


def _stage(channels: Sequence[int], stride: int, units: bool) -> nn.Sequential:
    """Residual blocks from one number of channels to the next, the first with this stride."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for block, (inputs, outputs) in enumerate(pairwise(channels), 1):
        parts[f"block{block}"] = _block(inputs, outputs, stride if block == 1 else 1, units)
        parts[f"relu{block}"] = nn.ReLU()
    begin_shallow(part for part in parts.values() if isinstance(part, Residual))
    return nn.Sequential(parts)


def _block(inputs: int, outputs: int, stride: int, units: bool) -> Residual:
    gates = [Gate(outputs)] if units else []
    body = nn.Sequential(*conv_norm(inputs, outputs, 3, stride), nn.ReLU(), *gates, *conv_norm(outputs, outputs))
    fits = inputs == outputs and stride == 1
    return Residual(body, None if fits else nn.Sequential(*conv_norm(inputs, outputs, 1, stride)))
