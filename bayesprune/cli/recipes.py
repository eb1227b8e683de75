"""How each network is trained where the command line does not say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bayesprune.networks import FAMILIES


@dataclass(frozen=True)
class Recipe:
    """The options whose best values depend on the network.

    Attributes:
        batch_size: Examples a step.
        lr: Peak learning rate of the weights, for this batch size.
        optimizer: One of ``OPTIMIZERS``.
        weight_decay: λ/N; ``None`` for a slab of precision λ = 1 whatever the number of examples.
        price: ν of `CostPrice`, nats per example.
        label_smoothing: ε of the categorical likelihood.
        every: Take a step on θ at every so-many-th step of the weights.
        augment: Whether colour images are cropped and flipped at random.
        accelerate: Whether a GPU is faster than a CPU.
        temperature: How much the divergence of Normal weights from their prior counts.
    """

    batch_size: int = 64
    lr: float = 2e-3
    optimizer: str = "adam"
    weight_decay: float | None = None
    price: float = 0.25
    label_smoothing: float = 0.05
    every: int = 4
    augment: bool = False
    accelerate: bool = False
    temperature: float = 1.0


PLAIN = Recipe()
SMALL_IMAGES = Recipe(128, 0.1, "sgd", 5e-4, 0.1, label_smoothing=0.0, augment=True, accelerate=True)
LARGE_IMAGES = Recipe(256, 0.1, "sgd", 1e-4, 0.1, label_smoothing=0.0, augment=True, accelerate=True)
RECIPES: dict[str, Recipe] = {  # by name of a network or of a family
    "lenet300": PLAIN,
    **dict.fromkeys(("lenet5", "lenet5-bypass"), Recipe(128, 4e-3, weight_decay=1e-4, price=0.36, accelerate=True)),
    "resmlp": Recipe(128, 2e-3, weight_decay=1e-3, price=0.4, label_smoothing=0.0, every=16),
    "resnet": SMALL_IMAGES,
    "vgg16": SMALL_IMAGES,
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), LARGE_IMAGES),
}


NORMAL_SLABS: dict[str, Any] = {
    "lr": 1e-2,
    "optimizer": "adam",
    "label_smoothing": 0.0,
    "every": 2,
    "temperature": 0.1,
}
"""What is different where weights are Normal. Smoothed labels would make predictions less sure than the data are."""


def recipe_for(net: str, slab: str = "point") -> Recipe:
    """The recipe of the network called ``net``, of its family, or for one that has none, that of plain networks.

    Args:
        net: Name of the network.
        slab: Kind of slab; where weights are Normal, a recipe is changed by what ``NORMAL_SLABS`` says.
    """
    family = re.sub(r"\d+$", "", net)
    recipe = RECIPES.get(net) or (RECIPES[family] if family in FAMILIES else PLAIN)
    return replace(recipe, **NORMAL_SLABS) if slab == "normal" else recipe


def nesterov(params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.9. Not fused, which fails where some parameters have no gradient."""
    return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": nesterov}
