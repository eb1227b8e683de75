"""What a network says of a test split, how far that can be believed, and whether it is less sure of other images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.cli.config import RunConfig, short_name
from bayesprune.data import Images, Splits, load, loaders
from bayesprune.data.images import Raw
from bayesprune.errors import ConfigError
from bayesprune.metrics import Calibration, auroc, entropy
from bayesprune.pruning.meter import eval_mode

BATCH = 512
"""Examples a batch when only scoring."""

NOISE = "noise"
"""Images whose pixels are all random and independent, by the name that ``--against`` has for them."""


def class_probabilities(net: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Probabilities that a network in eval mode gives the classes, and what the classes are.

    Args:
        net: The network, inputs to logits.
        loader: Batches of inputs and labels, at least one.

    Returns:
        Probabilities, shape ``(N, C)``, float64, and labels, shape ``(N,)``, both on the CPU.
    """
    device = next(net.parameters()).device
    with eval_mode(net):
        # float64, in which unlikely labels keep a probability; not every device has it.
        batches = [(net(x.to(device)).cpu().double().softmax(1), y.cpu()) for x, y in loader]
    probabilities, labels = zip(*batches, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def figures(calibration: Calibration) -> dict[str, float]:
    """The figures of a calibration as ``result.json`` and ``evaluate --json`` have them."""
    return {name: getattr(calibration, name) for name in ("accuracy", "nll", "brier", "ece")}


def diagram_title(config: RunConfig, data: str) -> str:
    """What stands above the reliability diagram of a run on the test split of ``data``."""
    return f"{config.net}, seed {config.seed}: test split of {short_name(data)}"


def detection(net: nn.Module, inside: Tensor, splits: Splits, name: str, data_dir: str) -> dict[str, Any]:
    """How well images from elsewhere are told by the entropy of their class probabilities.

    Args:
        net: The network.
        inside: Its class probabilities for the test split of ``splits``, shape ``(N, C)``.
        splits: The data whose test images are to be told from others.
        name: Data set whose test images are the others, or ``noise``: as many images with pixels drawn evenly between
            0 and the brightest there is, the same ones every time.
        data_dir: Folder of data sets.

    Returns:
        ``against``, the name, and ``auroc``, the probability that one of the others has the higher entropy.

    Raises:
        BayesPruneError: if the data set is not there or its images are of another shape.
    """
    own = splits.test
    others = replace(splits, test=Images(_others(name, splits, data_dir), own.mean, own.std))
    outside, _ = class_probabilities(net, loaders(others, BATCH, 0)[1])
    return {"against": name, "auroc": auroc(entropy(inside), entropy(outside))}


def _others(name: str, splits: Splits, data_dir: str) -> Raw:
    """Images in bytes, which are then normalised as those of ``splits`` are, and labels, which mean nothing."""
    own = splits.test
    if name == NOISE:
        generator = torch.Generator().manual_seed(0)
        levels = int(own.images.max()) + 1
        return Raw(torch.randint(levels, own.images.shape, generator=generator, dtype=torch.uint8), own.labels)
    other = load(name, data_dir=data_dir)
    if other.input_shape != splits.input_shape:
        raise ConfigError(
            f"--against {name}: its images have shape {other.input_shape}, those of {splits.name} have "
            f"{splits.input_shape}; give a data set of that shape, or '{NOISE}'"
        )
    return Raw(other.test.images, other.test.labels)
