"""Torchvision's residual networks with gates: its own weights, its own outputs while every gate is on."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.networks.images import check_images
from bayesprune.networks.sizes import check_sizes

STAGES = ("layer1", "layer2", "layer3", "layer4")


@checked_arguments
def from_torchvision(model: nn.Module, *, units: bool = False) -> nn.Module:
    """A gated copy of a torchvision ResNet, for example a pretrained one.

    Every block becomes a `layers.Residual` with the block's own layers as branch and its ``downsample`` as by-pass,
    followed by the activation; the gate multiplies after the branch's last normalisation. With all gates on, the
    outputs are those of ``model``. Layers keep their names within a block: ``layer1.0.conv1`` is
    ``layer1.0.body.conv1``, ``layer2.0.downsample`` is ``layer2.0.shortcut``.

    Args:
        model: A ``torchvision.models.ResNet`` of ``BasicBlock`` or ``Bottleneck`` blocks; it is not touched.
        units: Whether to gate also the channels within the branches, after their activations; of a convolution in
            groups (ResNeXt), whole groups go, and from those that are left equal numbers of channels.

    Raises:
        ConfigError: for another model, or one with other blocks.
    """
    from torchvision.models import ResNet  # slow to import

    if not isinstance(model, ResNet):
        raise ConfigError(
            f"from_torchvision: expected a torchvision ResNet, got {type(model).__name__}; gate another network by "
            "putting its blocks into layers.Residual"
        )
    net = copy.deepcopy(model)
    for stage in STAGES:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for name, block in net.get_submodule(stage).named_children():
            parts[name] = _gated(block, f"{stage}.{name}", units)
            parts[f"{name}_relu"] = nn.ReLU()
        setattr(net, stage, nn.Sequential(parts))
    for gate in gates_of(net).values():
        gate.to(net.fc.weight.device)
    return net


@checked_arguments
def resnet18(
    input_shape: tuple[int, ...] = (3, 224, 224), num_classes: int = 1000, *, units: bool = False
) -> nn.Module:
    """Gated ``torchvision.models.resnet18``, logits ``(B, num_classes)``, 8 branches.

    Args:
        input_shape: ``(3, height, width)``.
        num_classes: Number of outputs.
        units: Whether to gate also the channels within the branches.

    Raises:
        ConfigError: for inputs that are not colour images of at least 32x32.
    """
    return _build("resnet18", input_shape, num_classes, units)


@checked_arguments
def resnet34(
    input_shape: tuple[int, ...] = (3, 224, 224), num_classes: int = 1000, *, units: bool = False
) -> nn.Module:
    """Gated ``torchvision.models.resnet34``, logits ``(B, num_classes)``, 16 branches.

    Args:
        input_shape: ``(3, height, width)``.
        num_classes: Number of outputs.
        units: Whether to gate also the channels within the branches.

    Raises:
        ConfigError: as `resnet18`.
    """
    return _build("resnet34", input_shape, num_classes, units)


@checked_arguments
def resnet50(
    input_shape: tuple[int, ...] = (3, 224, 224), num_classes: int = 1000, *, units: bool = False
) -> nn.Module:
    """Gated ``torchvision.models.resnet50``, logits ``(B, num_classes)``, 16 bottleneck branches.

    Args:
        input_shape: ``(3, height, width)``.
        num_classes: Number of outputs.
        units: Whether to gate also the channels within the branches.

    Raises:
        ConfigError: as `resnet18`.
    """
    return _build("resnet50", input_shape, num_classes, units)


def _build(name: str, input_shape: tuple[int, ...], num_classes: int, units: bool) -> nn.Module:
    """Torchvision's network of this name with its own initial weights, gated."""
    from torchvision import models

    check_sizes(name, input_shape, num_classes=num_classes)
    check_images(name, input_shape, 32, "use resnet20 for smaller ones")
    if input_shape[0] != 3:
        raise ConfigError(f"{name}: expected images of 3 channels, got {tuple(input_shape)}; use resnet20 for others")
    return from_torchvision(getattr(models, name)(weights=None, num_classes=num_classes), units=units)


def _gated(block: Any, where: str, units: bool) -> Residual:
    """A torchvision block as a gated branch with a by-pass, without its last activation."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    if type(block) not in (BasicBlock, Bottleneck):
        raise ConfigError(
            f"from_torchvision: {where} is a {type(block).__name__}, expected a BasicBlock or Bottleneck; put it into "
            "a layers.Residual by hand"
        )
    layers = 2 if type(block) is BasicBlock else 3
    body: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, layers + 1):
        conv = body[f"conv{i}"] = getattr(block, f"conv{i}")
        body[f"bn{i}"] = getattr(block, f"bn{i}")
        if i < layers:
            body[f"relu{i}"] = nn.ReLU()
            if units:
                body[f"gate{i}"] = Gate(conv.out_channels)
    return Residual(nn.Sequential(body), block.downsample)
