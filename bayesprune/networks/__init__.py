"""Gated networks by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import meant
from bayesprune.errors import ConfigError
from bayesprune.networks.imagenet import from_torchvision, resnet18, resnet34, resnet50
from bayesprune.networks.lenets import lenet5, lenet5_bypass, lenet300
from bayesprune.networks.residual import resnet
from bayesprune.networks.residual_mlp import resmlp
from bayesprune.networks.vgg import vgg16

NETWORKS: dict[str, Callable[..., nn.Module]] = {  # of the shape of one example and the number of classes
    "lenet300": lenet300,
    "lenet5": lenet5,
    "lenet5-bypass": lenet5_bypass,
    "resmlp": resmlp,
    "resnet": partial(resnet, 20),
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16": vgg16,
}
FAMILIES: dict[str, Callable[[int, tuple[int, ...], int], nn.Module]] = {  # of the depth, and the same
    "resmlp": lambda depth, input_shape, num_classes: resmlp(input_shape, num_classes, depth=depth),
    "resnet": resnet,
}


@checked_arguments
def build(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The gated network called ``name``, for inputs of one shape.

    Args:
        name: One of ``NETWORKS``, or one of ``FAMILIES`` and a depth: ``resmlp12`` is ``resmlp`` with 12 branches,
            ``resnet56`` is ``resnet(56)``. ``resnet18``, ``resnet34`` and ``resnet50`` are torchvision's.
        input_shape: Shape of one example.
        num_classes: Number of outputs.

    Raises:
        ConfigError: for an unknown name, a depth the family does not have, or an input the network cannot take.
    """
    if name in NETWORKS:
        return NETWORKS[name](input_shape, num_classes)
    deep = re.fullmatch(r"([a-z]+)([1-9]\d*)", name)
    if deep and deep[1] in FAMILIES:
        if len(deep[2]) > 4:
            raise ConfigError(f"network {name[:40]}: a depth of at most 9999 can be built")
        return FAMILIES[deep[1]](int(deep[2]), input_shape, num_classes)
    raise ConfigError(
        f"unknown network {name!r}{meant(name, NETWORKS)}; known are {', '.join(sorted(NETWORKS))}, resmlpDEPTH (for "
        "example resmlp12) and resnetDEPTH (resnet56)"
    )


__all__ = [
    "FAMILIES",
    "NETWORKS",
    "build",
    "from_torchvision",
    "lenet5",
    "lenet5_bypass",
    "lenet300",
    "resmlp",
    "resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg16",
]
