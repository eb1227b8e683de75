"""How `fit` trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

import torch

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.infer.estimators import Estimator
from bayesprune.methods.svi.budget import Budget
from bayesprune.pruning import CostPrice


@checked_arguments
@dataclass(frozen=True)
class Settings:
    """How `fit` trains, with defaults that serve.

    Attributes:
        lr: Peak learning rate of the weights; warm-up and half a cosine are applied to it. With weights that are
            points it rises a second time as gates come to rest.
        optimizer: Constructor of their optimiser, called with parameters, ``lr`` and ``weight_decay`` = λ/N (the slab's
            density enters as coupled L2, so the optimiser must add it to the gradient, as Adam and SGD do and AdamW
            does not). It is tried on small weights before training, see `bayesprune.optim.trial`.
        price: Price structures at what they are expected to save, instead of by the prior's constant log γ; see
            `CostPrice`. Not with a `FixedInclusion` prior, which says itself what gates cost.
        budget: What the network may cost in the end, instead of a price: ν is then found while training, see
            `Multiplier`. Not with a `FixedInclusion` prior either.
        estimator: Name of the estimator of θ's gradient, or a function; see `bayesprune.infer.estimators`.
        every: Take a step on θ at every so-many-th step of the weights.
        temperature: How much the divergence of Normal weights from their prior counts while training: 1 is the evidence
            lower bound, less keeps more weights and trusts the data more than the model does (Wenzel et al. 2020). The
            prices of gates are not multiplied by it.
        schedule: Fields of `Schedule` to set, e.g. ``{"fine_tune_from": 0.6}``.
        patience: Consecutive checks that must agree before a structure is removed.
        layer_decay: Factor on the learning rate of a layer for every layer behind it (Howard & Ruder 2018): below 1,
            the first layers of a trained network change least. Layers count in the order in which the network holds
            them.
        freeze_statistics: Whether normalisations keep the running statistics that they have, and compute with them.

    Raises:
        ConfigError: for numbers that are not positive and finite, or not whole where they count; for a price beside a
            budget.

    Examples:
        >>> settings = Settings(lr=1e-2, schedule={"fine_tune_from": 0.6})
        >>> settings.every
        4
    """

    lr: float = 3e-3
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    price: CostPrice | None = None
    budget: Budget | None = None
    estimator: str | Estimator = "auto"
    every: int = 4
    temperature: float = 1.0
    schedule: dict[str, Any] = field(default_factory=dict)
    patience: int = 2
    layer_decay: float = 1.0
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        rest = "to let weights rest, set their requires_grad to False"
        object.__setattr__(self, "lr", real("Settings: lr", self.lr, 0, hint=rest))
        object.__setattr__(self, "temperature", real("Settings: temperature", self.temperature, 0))
        object.__setattr__(self, "layer_decay", real("Settings: layer_decay", self.layer_decay, 0, 1, "(]"))
        for name in ("every", "patience"):
            object.__setattr__(self, name, whole(f"Settings: {name}", getattr(self, name)))
        if self.price is not None and self.budget is not None:
            raise ConfigError(
                f"Settings: price (nu={self.price.nu}) and budget ({self.budget}) exclude each other, because a budget "
                "finds nu itself; leave one of them out"
            )

    def plain(self) -> list[tuple[str, object]]:
        """The settings by name as plain values, for comparison."""
        changed = {
            "optimizer": _name(self.optimizer),
            "price": None if self.price is None else asdict(self.price),
            "budget": None if self.budget is None else asdict(self.budget),
            "estimator": self.estimator if isinstance(self.estimator, str) else _name(self.estimator),
            "schedule": sorted(self.schedule.items()),
        }
        return [(each.name, changed.get(each.name, getattr(self, each.name))) for each in fields(self)]


def _name(function: Any) -> object:
    """What a function is called; of one with arguments filled in, these as well."""
    if isinstance(function, partial):
        return [_name(function.func), *sorted((key, str(value)) for key, value in function.keywords.items())]
    return getattr(function, "__name__", "")
