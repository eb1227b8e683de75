"""What a run is made of: the options as they were given, and as they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bayesprune.checked import real, whole
from bayesprune.cli.recipes import OPTIMIZERS, recipe_for
from bayesprune.errors import ConfigError
from bayesprune.infer import get_estimator
from bayesprune.infer.net import WEIGHTS
from bayesprune.methods.svi.budget import Budget
from bayesprune.training.devices import PRECISIONS, check_device

CROP_FLIP, NO_AUGMENTATION, AUTO = "crop-flip", "none", "auto"
COLOUR = ("cifar10", "cifar100", "imagefolder:")
"""How the names of data sets of colour images begin."""
MOST = 2**31 - 1
"""The largest count that an option may be."""
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The options of a run as they are used; `resolve` makes them of those of `bayesprune train`.

    Attributes:
        net: Name of the network.
        data: Name of the data set.
        epochs: Length of the run.
        seed: Seed of everything random, ≥ 0.
        batch_size: Examples a step, those of all processes together.
        lr: Peak learning rate of the weights.
        price: ν of `CostPrice`, nats per example: structures are priced at what they are expected to save. ``None``
            where a budget or ``log_gamma`` takes its place.
        log_gamma: log γ of the flattening hyper-prior, nats for the whole data set: one price for all structures,
            instead of ``price``.
        label_smoothing: ε of the categorical likelihood.
        estimator: Name of the estimator of θ's gradient.
        slab: Posterior of the weights: ``point`` or ``normal``.
        device: Where to train.
        limit: Number of training examples to use; ``None`` for all.
        data_dir: Folder of torchvision's data sets.
        budget: What may be left of the network, ``MEASURE=FRACTION``; ``None`` for no budget.
        precision: Number format of matrix products and convolutions.
        compile: Whether branches are compiled.
        strategy: How processes share the network.
        augment: How training images are varied.
        every: Take a step on θ at every so-many-th step of the weights.
        weight_decay: λ/N; ``None`` for λ = 1.
        optimizer: Name of the optimiser of the weights.
        temperature: How much the divergence of Normal weights from their prior counts.
    """

    net: str
    data: str
    epochs: int
    seed: int
    batch_size: int
    lr: float
    price: float | None
    log_gamma: float | None
    label_smoothing: float
    estimator: str
    slab: str
    device: str
    limit: int | None
    data_dir: str
    # Runs recorded before these options were there can still be read.
    budget: str | None = None
    precision: str = "float32"
    compile: bool = False
    strategy: str = "auto"
    augment: str = NO_AUGMENTATION
    every: int = 4
    weight_decay: float | None = None
    optimizer: str = "adam"
    temperature: float = 1.0

    def check(self) -> None:
        """Refuse what can be seen to be wrong without reading data.

        Raises:
            ConfigError: for an option that cannot work, or a device that is not there.
        """
        self.check_values()
        check_device(self.device)

    def check_values(self) -> None:
        """Refuse what would be wrong on any machine.

        Raises:
            ConfigError: for an option that cannot work.
        """
        for name in ("epochs", "batch_size", "every"):
            whole(option(name), getattr(self, name), 1, MOST)
        whole("--seed", self.seed, 0, LARGEST_SEED, hint="it has 63 bits")
        real("--lr", self.lr, 0)
        if self.weight_decay is not None:
            real("--weight-decay", self.weight_decay, 0, ends="[)")
        real("--temperature", self.temperature, 0, hint="1 is the ELBO itself")
        if self.temperature != 1 and self.slab == "point":
            raise ConfigError(f"--temperature {self.temperature} needs the weights' posterior: give --slab normal too")
        real("--label-smoothing", self.label_smoothing, 0, 1, "[)")
        self._check_prices()
        choices = {"optimizer": OPTIMIZERS, "augment": (CROP_FLIP, NO_AUGMENTATION), "slab": WEIGHTS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{option(name)} {getattr(self, name)}: unknown; known are {', '.join(known)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"--precision {self.precision}: unknown; known are {', '.join(PRECISIONS)}")
        get_estimator(self.estimator)

    def _check_prices(self) -> None:
        for name, unit in (("price", "per example"), ("log_gamma", "for the whole data set")):
            if getattr(self, name) is not None:
                hint = f"it is in nats {unit}, and larger values prune more"
                real(option(name), getattr(self, name), 0, hint=hint)
        given = [option(name) for name in ("budget", "price", "log_gamma") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are two ways to price structures; give one of them")
        self.parsed_budget()

    def parsed_budget(self) -> Budget | None:
        """The budget.

        Raises:
            ConfigError: if it cannot be read.
        """
        return None if self.budget is None else Budget.parse(self.budget)

    @property
    def default_folder(self) -> Path:
        """``runs/NET-DATA-seedS``, the data set's path reduced to its last part."""
        return Path("runs") / f"{self.net}-{short_name(self.data)}-seed{self.seed}"


DEFAULTS: dict[str, Any] = {
    "net": "lenet300",
    "data": "digits",
    "epochs": 100,
    "seed": 0,
    "log_gamma": None,
    "estimator": "auto",
    "slab": "point",
    "device": AUTO,
    "limit": None,
    "data_dir": "data",
    "budget": None,
    "precision": "float32",
    "compile": False,
    "strategy": "auto",
    "augment": AUTO,
}
"""The options that do not depend on the network."""


def resolve(given: Mapping[str, Any]) -> RunConfig:
    """The options to be used, when ``given`` were given (``None`` counts as not given).

    What is missing comes from ``DEFAULTS`` and from the network's recipe. ``auto`` for the device is CUDA where there
    is one and the recipe says that it is faster; for the augmentation, crops and flips of colour images where the
    recipe has it.
    """
    options = DEFAULTS | {name: value for name, value in given.items() if value is not None}
    recipe = recipe_for(options["net"], options["slab"])
    for name in ("batch_size", "lr", "optimizer", "weight_decay", "label_smoothing", "every", "temperature"):
        options.setdefault(name, getattr(recipe, name))
    priced = options["log_gamma"] is not None or options["budget"] is not None
    options.setdefault("price", None if priced else recipe.price)
    if options["device"] == AUTO:
        options["device"] = "cuda" if recipe.accelerate and torch.cuda.is_available() else "cpu"
    if options["augment"] == AUTO:
        varied = recipe.augment and options["data"].startswith(COLOUR)
        options["augment"] = CROP_FLIP if varied else NO_AUGMENTATION
    return RunConfig(**options)


def short_name(data: str) -> str:
    """The name of a data set as part of the name of a file: a path is reduced to its last part."""
    kind, _, path = data.partition(":")
    return f"{kind}-{Path(path).name}" if path else kind


def option(field: str) -> str:
    """What the field of a `RunConfig` is called on the command line."""
    return "--" + field.replace("_", "-")
