"""Gated networks by name."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.networks.lenet5 import lenet5
from bayesprune.networks.lenet300 import lenet300
from bayesprune.networks.resmlp import resmlp

NETWORKS: dict[str, Callable[..., nn.Module]] = {"lenet300": lenet300, "lenet5": lenet5, "resmlp": resmlp}


def build(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The gated network called ``name``, for inputs of one shape.

    Args:
        name: One of ``NETWORKS``; ``resmlp12`` is ``resmlp`` with 12 branches.
        input_shape: Shape of one example.
        num_classes: Number of outputs.

    Raises:
        ConfigError: for an unknown name, or an input the network cannot take.
    """
    if name in NETWORKS:
        return NETWORKS[name](input_shape, num_classes)
    deep = re.fullmatch(r"resmlp([1-9]\d*)", name)
    if deep:
        return resmlp(input_shape, num_classes, depth=int(deep[1]))
    raise ConfigError(
        f"unknown network {name!r}; known are {', '.join(sorted(NETWORKS))} and resmlpDEPTH (for example resmlp12)"
    )


__all__ = ["NETWORKS", "build", "lenet5", "lenet300", "resmlp"]
