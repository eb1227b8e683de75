"""Networks that other libraries have by name, with trained weights or without, converted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import fx, nn

from bayesprune.conversion.network import convert
from bayesprune.conversion.weights import TrainedWeights
from bayesprune.errors import ConfigError, GateError, TraceError

COLOURS = 3


@dataclass(frozen=True)
class Zoo:
    """A library of networks for the classification of images.

    Attributes:
        known: Gives all names.
        build: Gives the network of a name, with weights drawn as the library draws them, for a number of classes and
            for images of a shape, ``(channels, height, width)``, or of the shape that it is made for.
        channels: Whether images may have another number of channels than three.
    """

    known: Callable[[], Sequence[str]]
    build: Callable[[str, int, Sequence[int] | None], nn.Module]
    channels: bool = False


def _torchvision_names() -> Sequence[str]:
    from torchvision import models  # slow to import

    return models.list_models(module=models)


def _torchvision(name: str, num_classes: int, input_shape: Sequence[int] | None) -> nn.Module:
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # how GoogLeNet and Inception will draw their weights one day
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return network


def _timm() -> Any:
    """The package, if it is there."""
    try:
        import timm
    except ImportError:
        raise ConfigError(
            "--net timm:NAME needs timm, which is not installed: pip install 'bayesprune[timm]'"
        ) from None
    return timm


def _timm_names() -> Sequence[str]:
    return _timm().list_models()  # type: ignore[no-any-return]


def _timm_network(name: str, num_classes: int, input_shape: Sequence[int] | None) -> nn.Module:
    timm = _timm()
    options: dict[str, Any] = {"num_classes": num_classes}
    if input_shape is not None:
        options |= {"in_chans": input_shape[0], "img_size": tuple(input_shape[1:])}
    try:
        network: nn.Module = timm.create_model(name, **options)
    except TypeError:  # the sizes of its images are not fixed when it is built
        options.pop("img_size", None)
        network = timm.create_model(name, **options)
    return network


ZOOS: Mapping[str, Zoo] = {
    "torchvision": Zoo(_torchvision_names, _torchvision),
    "timm": Zoo(_timm_names, _timm_network, channels=True),
}
"""By what stands before the colon in the names of their networks."""


def is_foreign(net: str) -> bool:
    """Whether a name is one of another library's network, such as ``torchvision:resnet18``."""
    return net.partition(":")[0] in ZOOS and ":" in net


def foreign_names(name: str) -> list[str]:
    """What a network of this name is called that libraries have, as far as they are installed."""
    found = []
    for library, zoo in ZOOS.items():
        with suppress(ConfigError):
            found += [f"{library}:{name}"] * (name in zoo.known())
    return found


def plain_network(net: str, num_classes: int, input_shape: Sequence[int] | None = None) -> nn.Module:
    """The network of a name, with weights drawn as its library draws them.

    Args:
        net: The library's name and the network's, such as ``torchvision:resnet18``.
        num_classes: Number of outputs.
        input_shape: Shape of an image; ``None`` for the one that the network is made for.

    Raises:
        ConfigError: for a name that the library has no classification network for, or a library that is not installed.
    """
    library, _, name = net.partition(":")
    zoo = ZOOS[library]
    known = zoo.known()
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"{library} has no classification network {name!r}; the closest name is {near[0]!r}")
    try:
        return zoo.build(name, num_classes, input_shape)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        images = "" if input_shape is None else f" for images of shape {tuple(input_shape)}"
        raise ConfigError(f"{library}'s {name} cannot be built{images}: {error or type(error).__name__}") from error


def converted(
    net: str, input_shape: Sequence[int], num_classes: int, weights: TrainedWeights | None = None
) -> fx.GraphModule:
    """The network of a name with gates, for images of one shape.

    Args:
        net: As for `plain_network`.
        input_shape: ``(channels, height, width)``.
        num_classes: Number of outputs.
        weights: Trained weights that it begins at; a head of another number of classes is left out, with a warning.

    Raises:
        ConfigError: for an unknown name, other inputs than images of channels and a size that the network takes,
            weights that do not fit, or a network in which no place for a gate is found.
    """
    library, _, name = net.partition(":")
    shape = tuple(input_shape)
    if len(shape) != 3 or not (shape[0] == COLOURS or ZOOS[library].channels):
        takes = "images (channels" if ZOOS[library].channels else "colour images (3"
        raise ConfigError(
            f"{library}'s {name} takes {takes}, height, width), the examples have shape {shape}; use resnet20 for grey "
            "images, lenet300 for tables"
        )
    network = plain_network(net, num_classes, shape)
    if weights is not None:
        weights.put_into(network, _head(net, num_classes, shape))
    try:
        return convert(network, example_input=torch.zeros(2, *shape))
    except (TraceError, GateError) as error:
        raise ConfigError(f"{library}'s {name} with images of shape {shape}: {error}") from error


def _head(net: str, num_classes: int, input_shape: Sequence[int]) -> set[str]:
    """Names of the tensors whose shapes go by the number of classes.

    Args:
        net: The network.
        num_classes: Its number of outputs.
        input_shape: Shape of an image.
    """
    own, other = (plain_network(net, count, input_shape).state_dict() for count in (num_classes, num_classes + 1))
    return {key for key, value in own.items() if value.shape != other[key].shape}
