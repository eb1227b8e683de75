"""What the comparison with SS-IG trains: networks, data, priors, and how each is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesprune as bp
from bayesprune import layers
from bayesprune.data.images import Images, Raw, Splits
from bayesprune.distributions import FixedInclusion, FlatteningPrior, layer_adaptive_log_gamma
from bayesprune.training import Budget

WIDTHS = (400, 400)


def mlp(input_shape: tuple[int, ...], *, inputs: bool = False, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two hidden layers of 400 units, with gates on them and, if asked for, on the inputs."""
    pixels = torch.Size(input_shape).numel()
    first, second = WIDTHS
    return nn.Sequential(
        nn.Flatten(),
        *([layers.Gate(pixels)] if inputs else []),
        layers.Linear(pixels, first, gate="unit"),
        activation(),
        layers.Linear(first, second, gate="unit"),
        activation(),
        nn.Linear(second, 10),
    )


def mlp_inputs(input_shape: tuple[int, ...]) -> nn.Sequential:
    """`mlp` with gates on the inputs, too."""
    return mlp(input_shape, inputs=True)


def mlp_silu(input_shape: tuple[int, ...]) -> nn.Sequential:
    """`mlp` with the activation of SS-IG."""
    return mlp(input_shape, activation=nn.SiLU)


@dataclass(frozen=True)
class Case:
    """How one network is trained; what is not said here is `fit`'s default.

    Attributes:
        epochs: Of the Bayesian and of the dense network.
        build: The gated network for an input shape.
        data: Name of the data set.
        batch: Examples a batch.
        temperature: Of the divergence of the slabs.
        log_gamma: Price of a gate under the flattening prior, nats; ``None`` for the fixed prior of SS-IG.
        slab_scale: Standard deviation of the slab's prior; ``None`` for a learned one a layer.
        settings: Of `fit`, besides the temperature.
        dense_lr: Learning rate of the dense network.
    """

    epochs: int
    build: Callable[[tuple[int, ...]], nn.Module] = mlp
    data: str = "mnist"
    batch: int = 128
    temperature: float = 1.0
    log_gamma: float | None = 4.0
    slab_scale: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    dense_lr: float = 1e-3


CONVOLUTIONS: dict[str, Any] = {
    "budget": Budget("macs", 0.095),
    "schedule": {"sample_from": 0.1, "settle_from": 0.4, "fine_tune_from": 0.7},
}
CASES = {
    "mlp": Case(epochs=50, temperature=0.2),
    "mlp-inputs": Case(epochs=50, temperature=0.2, build=mlp_inputs),
    "mlp-elbo": Case(epochs=50),
    "mlp-ssig": Case(
        epochs=50, build=mlp_silu, log_gamma=None, slab_scale=1.0, settings={"estimator": "concrete", "lr": 1e-3}
    ),
    "lenet5": Case(epochs=30, build=bp.networks.lenet5, temperature=0.2, settings=CONVOLUTIONS),
    "lenet5-elbo": Case(epochs=30, build=bp.networks.lenet5, settings=CONVOLUTIONS),
    "digits": Case(epochs=60, data="digits", batch=32, temperature=1e-3),
    "digits-elbo": Case(epochs=60, data="digits", batch=32),
}


def load(case: Case, data_dir: str, limit: int | None, validate: bool) -> Splits:
    """The data set, its pixels not centred; with ``validate`` the end of the training images instead of the test."""
    splits = bp.data.load(case.data, data_dir=data_dir, limit=limit)
    train, test = Raw(splits.train.images, splits.train.labels), Raw(splits.test.images, splits.test.labels)
    if validate:
        kept = len(train.labels) - len(train.labels) // 6
        train, test = Raw(*(part[:kept] for part in train)), Raw(*(part[kept:] for part in train))
    scale = train.images.double().square().mean((0, 2, 3)).sqrt()
    mine, others = (Images(part, torch.zeros_like(scale), scale) for part in (train, test))
    return replace(splits, train=mine, test=others)


def outsiders(splits: Splits, folder: str | None) -> dict[str, Tensor]:
    """By name, inputs from outside in the shape of the data's: noise, digits of another origin, images of a folder."""
    test = splits.test
    top = int(test.images.max())
    torch.manual_seed(0)
    found = {"uniform noise": torch.randint_like(test.images, 0, top + 1)}
    others = {"digits, upscaled": bp.data.load("digits").test.images * (255 / 16)} if splits.name != "digits" else {}
    if folder is not None:
        colours = bp.data.load(f"imagefolder:{folder}").test.images
        others["images, grey"] = colours.float().mean(1, keepdim=True)
    for name, images in others.items():
        resized = F.interpolate(images.float(), splits.input_shape[1:], mode="bilinear", antialias=True)
        found[name] = (resized * (top / 255)).round().to(torch.uint8)
    return {name: test.normalise(images) for name, images in found.items()}


def prior(case: Case, splits: Splits) -> FlatteningPrior | FixedInclusion:
    """Of the gates."""
    if case.log_gamma is not None:
        return FlatteningPrior(case.log_gamma)
    widths = [torch.Size(splits.input_shape).numel(), *WIDTHS, splits.num_classes]
    prices = layer_adaptive_log_gamma(widths, len(splits.train))
    return FixedInclusion(log_gamma=torch.tensor(prices).repeat_interleave(torch.tensor(WIDTHS)))
