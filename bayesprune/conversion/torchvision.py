"""Torchvision's classification networks by name, with trained weights or without, converted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import fx, nn

from bayesprune.conversion.network import convert
from bayesprune.conversion.weights import TrainedWeights
from bayesprune.errors import ConfigError, GateError, TraceError


def plain_network(name: str, num_classes: int) -> nn.Module:
    """Torchvision's classification network of a name, with weights drawn as torchvision draws them.

    Args:
        name: As in ``torchvision.models.list_models``.
        num_classes: Number of outputs.

    Raises:
        ConfigError: for a name that torchvision has no classification network for.
    """
    from torchvision import models  # slow to import

    known = models.list_models(module=models)
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"torchvision has no classification network {name!r}; the closest name is {near[0]!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # how GoogLeNet and Inception will draw their weights one day
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return network


def converted(
    name: str, input_shape: Sequence[int], num_classes: int, weights: TrainedWeights | None = None
) -> fx.GraphModule:
    """The network of a name with gates, for images of one shape.

    Args:
        name: As for `plain_network`.
        input_shape: ``(3, height, width)``.
        num_classes: Number of outputs.
        weights: Trained weights that it begins at; a head of another number of classes is left out, with a warning.

    Raises:
        ConfigError: for an unknown name, other inputs than colour images of a size that the network takes, weights
            that do not fit, or a network in which no place for a gate is found.
    """
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ConfigError(
            f"torchvision's {name} takes colour images (3, height, width), the examples have shape "
            f"{tuple(input_shape)}; use resnet20 for grey images, lenet300 for tables"
        )
    network = plain_network(name, num_classes)
    if weights is not None:
        weights.put_into(network, _head(name, num_classes))
    try:
        return convert(network, example_input=torch.zeros(2, *input_shape))
    except (TraceError, GateError) as error:
        raise ConfigError(f"torchvision's {name} with images of shape {tuple(input_shape)}: {error}") from error


def _head(name: str, num_classes: int) -> set[str]:
    """Names of the tensors whose shapes go by the number of classes.

    Args:
        name: Of the network.
        num_classes: Its number of outputs.
    """
    own, other = (plain_network(name, count).state_dict() for count in (num_classes, num_classes + 1))
    return {key for key, value in own.items() if value.shape != other[key].shape}
