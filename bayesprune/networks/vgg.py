"""VGG16 for small images with a gated layer and a linear by-pass in the place of each plain one."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.layers import Residual
from bayesprune.networks.images import check_images, conv_norm, initialise
from bayesprune.networks.sizes import check_sizes

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # channels of the convolutions, in units of the width
HIDDEN = 2  # fully connected layers before the last


@checked_arguments
def vgg16(input_shape: tuple[int, ...] = (3, 32, 32), num_classes: int = 10, *, width: int = 64) -> nn.Sequential:
    """Gated VGG16, logits ``(B, num_classes)`` from images ``(B, *input_shape)``.

    The 13 convolutions of Simonyan & Zisserman (2015, configuration D) and two hidden fully connected layers of 8
    ``width``, all with batch normalisation. As Guenter & Sideris (2024, arXiv 2406.04549) do for plain networks, every
    nonlinear section F has a linear by-pass P: y = P x + ξ · F(x), so that any of them may go. F is convolution (or
    linear map), normalisation, activation and, where a stage ends, max-pooling. P is the identity, average pooling
    where F pools, and a 1x1 convolution without bias where the number of channels changes.

    The convolutions pad, so the maps shrink by pooling alone: each of the five stages halves them, rounding down, until
    they are 1x1 (32x32 five times, 28x28 and 16x16 four times). What is left of larger ones is averaged.

    Args:
        input_shape: ``(channels, height, width)``.
        num_classes: Number of outputs.
        width: Channels of the first stage; with 64 it is the published network, with 8 one for a CPU.

    Raises:
        ConfigError: for inputs that are not images, or too small to be halved four times.
    """
    check_sizes("vgg16", input_shape, num_classes=num_classes, width=width)
    check_images("vgg16", input_shape, 16, "use lenet300 or resmlp for other inputs, resnet for images from 4x4 on")
    channels, side = input_shape[0], min(input_shape[1:])
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, multiples in enumerate(STAGES, 1):
        for layer, multiple in enumerate(multiples, 1):
            pools = layer == len(multiples) and side >= 2
            parts[f"conv{stage}_{layer}"] = _convolution(channels, multiple * width, pools)
            channels = multiple * width
        side = side // 2
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    for layer in range(1, HIDDEN + 1):
        linear = nn.Linear(channels, channels, bias=False)
        parts[f"hidden{layer}"] = Residual(nn.Sequential(linear, nn.BatchNorm1d(channels), nn.ReLU()))
    parts["head"] = nn.Linear(channels, num_classes)
    net = nn.Sequential(parts)
    initialise(net)
    return net


def _convolution(inputs: int, outputs: int, pools: bool) -> Residual:
    """One nonlinear section and its by-pass; a section that pools keeps the number of channels."""
    body = [*conv_norm(inputs, outputs), nn.ReLU()]
    if pools:
        return Residual(nn.Sequential(*body, nn.MaxPool2d(2)), nn.AvgPool2d(2))
    return Residual(nn.Sequential(*body), None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False))
