"""The network that ``--net`` names: the library's own, another library's, converted, or the user's."""

from __future__ import annotations

from torch import nn

from bayesprune.cli.own import OwnNetwork, is_own
from bayesprune.conversion.weights import TrainedWeights
from bayesprune.conversion.zoos import converted, foreign_names, is_foreign, plain_network
from bayesprune.errors import ConfigError
from bayesprune.networks import FAMILIES, NETWORKS, build

ANY_IMAGES = (3, 32, 32)
"""Examples that every network by name takes."""


def named_network(
    net: str, input_shape: tuple[int, ...], num_classes: int, weights: TrainedWeights | None = None
) -> nn.Module:
    """The gated network at the start of a run.

    Args:
        net: Its name, as ``--net`` takes it.
        input_shape: Shape of one example.
        num_classes: Number of outputs.
        weights: Trained weights that it begins at; another library's only.

    Raises:
        ConfigError: for an unknown name, or inputs or weights that do not fit it.
    """
    if is_foreign(net):
        return converted(net, input_shape, num_classes, weights)
    if is_own(net):
        return OwnNetwork(net)(input_shape, num_classes)
    return _built(net, input_shape, num_classes)


def network_like(net: str, input_shape: tuple[int, ...] = ANY_IMAGES, num_classes: int = 10) -> nn.Module:
    """A network made of the same kinds of layers, which is what a recipe goes by.

    Args:
        net: Its name.
        input_shape: Shape of one example, which counts for networks of one's own alone.
        num_classes: Number of outputs, likewise.

    Raises:
        ConfigError: for an unknown name.
    """
    if is_foreign(net):
        return plain_network(net, 10)
    if is_own(net):
        return OwnNetwork(net).plain(input_shape, num_classes)
    return _built(net, ANY_IMAGES, 10)


def _built(net: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """One of the library's own networks.

    Args:
        net: Its name.
        input_shape: Shape of one example.
        num_classes: Number of outputs.

    Raises:
        ConfigError: for an unknown name, with those that it has elsewhere, or inputs that do not fit it.
    """
    if net.endswith(".py"):
        raise ConfigError(f"--net {net}: a file alone names no network; write {net}:NAME, the NAME of what makes it")
    try:
        return build(net, input_shape, num_classes)
    except ConfigError as error:
        if net in NETWORKS or net.rstrip("0123456789") in FAMILIES:
            raise
        others = foreign_names(net)
        hint = f"; for another library's write {' or '.join(others)}" if others else ""
        raise ConfigError(f"{error}, torchvision:NAME, timm:NAME, MODULE:NAME, FILE.py:NAME{hint}") from error


def read_weights(path: str, sha256: str | None) -> TrainedWeights:
    """Trained weights that a run begins at.

    Args:
        path: The file.
        sha256: Its digest as the run has recorded it; ``None`` for a new run.

    Raises:
        BayesPruneError: for a file that is missing, is no weights, or changed since.
    """
    weights = TrainedWeights.read(path)
    if sha256 not in (None, weights.sha256):
        raise ConfigError(f"--weights {path}: the file is not the one that the run was started with; bring that back")
    return weights
