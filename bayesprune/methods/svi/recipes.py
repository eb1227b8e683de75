"""What suits a network, where nobody says how to train it: one table for `fit`, the command line and the examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual, normal_layers
from bayesprune.methods.svi.settings import Settings
from bayesprune.ops.grouped import is_depthwise
from bayesprune.optim import OPTIMIZERS
from bayesprune.pruning import CostPrice


@dataclass(frozen=True)
class Recipe:
    """The choices whose best values depend on the network, as `recommended` makes them.

    `Settings` hold some of them. The others belong to what is made before training: the batch size to the loader, the
    weight decay and the smoothing of labels to the `BayesianNet` and its likelihood.

    Attributes:
        batch_size: Examples a step.
        lr: Peak learning rate of the weights, for this batch size.
        optimizer: One of `bayesprune.optim.OPTIMIZERS`.
        weight_decay: λ/N; ``None`` for a slab of precision λ = 1 whatever the number of examples.
        price: ν of `CostPrice`, nats per example; ``None`` where the prior of the gates says what they cost.
        label_smoothing: ε of the categorical likelihood.
        every: Take a step on θ at every so-many-th step of the weights.
        augment: Whether colour images are cropped and flipped at random.
        accelerate: Whether a GPU is faster than a CPU.
        temperature: How much the divergence of Normal weights from their prior counts.

    Examples:
        >>> from bayesprune.networks import lenet300
        >>> recommended(lenet300()).settings(lr=1e-3).lr
        0.001
    """

    batch_size: int = 64
    lr: float = 2e-3
    optimizer: str = "adam"
    weight_decay: float | None = None
    price: float | None = 0.25
    label_smoothing: float = 0.05
    every: int = 4
    augment: bool = False
    accelerate: bool = False
    temperature: float = 1.0

    def settings(self, **changes: Any) -> Settings:
        """What `Settings` hold of it.

        Args:
            **changes: Fields of `Settings` to choose otherwise. A ``budget`` takes the place of the price.
        """
        price = None if self.price is None or changes.get("budget") is not None else CostPrice(self.price)
        chosen: dict[str, Any] = {
            "lr": self.lr,
            "optimizer": OPTIMIZERS[self.optimizer],
            "price": price,
            "every": self.every,
            "temperature": self.temperature,
        }
        return Settings(**chosen | changes)


PLAIN = Recipe(128, 3e-3, weight_decay=1e-4, price=0.2, every=1)
BRANCHES = Recipe(128, 2e-3, weight_decay=1e-3, price=0.4, label_smoothing=0.0)
CONVOLUTIONS = Recipe(128, 4e-3, weight_decay=1e-4, price=0.36, every=2, accelerate=True)
SMALL_IMAGES = Recipe(128, 0.1, "sgd", 5e-4, 0.1, label_smoothing=0.0, augment=True, accelerate=True)
LARGE_IMAGES = replace(SMALL_IMAGES, batch_size=256, weight_decay=1e-4)
DEPTHWISE = replace(SMALL_IMAGES, batch_size=64, lr=3e-3, optimizer="adam")
DEEP = replace(DEPTHWISE, lr=3e-4, weight_decay=1e-4)
ATTENTION = replace(DEEP, lr=1e-3)
MANY = 8
"""So many convolutions without normalisation are deep: at the rate of a shallow network their outputs all become 0."""
NORMAL_WEIGHTS: dict[str, Any] = {
    "lr": 1e-2,
    "optimizer": "adam",
    "label_smoothing": 0.0,
    "every": 2,
    "temperature": 0.1,
}
"""What is different where weights are Normal. Smoothed labels would make predictions less sure than the data are. In
networks that are `PLAIN` all else is as in a `Recipe` of which nothing is said: what suits points was not tried."""


@checked_arguments
def recommended(net: nn.Module, *, weights: str | None = None) -> Recipe:
    """How to train a network that is made like ``net``; a start, not the result of a search.

    What counts is what the network is made of. Without convolutions: whether it has gated branches. With them: whether
    there is batch normalisation, and then whether any is depthwise, and whether the first has a stride, which says that
    images are large; without it whether there is layer normalisation, as in transformers, and how many they are.

    Args:
        net: The gated network, or the `BayesianNet` made of it. Where that was given a prior of the gates, this prior
            says what they cost, and no price by cost is recommended in its place.
        weights: Posterior that the weights are to have, ``"point"`` or ``"normal"``; ``None`` for the one that they
            have.

    Raises:
        ConfigError: for another posterior.
    """
    if weights not in (None, "point", "normal"):
        raise ConfigError(f"recommended: weights must be 'point' or 'normal', got {weights!r}")
    recipe = _made_like(list(net.modules()))
    if weights == "normal" or (weights is None and normal_layers(net)):
        recipe = replace(Recipe() if recipe is PLAIN else recipe, **NORMAL_WEIGHTS)
    return replace(recipe, price=None) if isinstance(net, BayesianNet) and net.prior_given else recipe


def _made_like(modules: list[nn.Module]) -> Recipe:
    """The recipe of point weights for a network of these modules."""
    convolutions = [module for module in modules if isinstance(module, _ConvNd)]
    if not convolutions:
        return BRANCHES if any(isinstance(module, Residual) for module in modules) else PLAIN
    if not any(isinstance(module, _NormBase) for module in modules):
        if any(isinstance(module, nn.LayerNorm) for module in modules):
            return ATTENTION
        return CONVOLUTIONS if len(convolutions) < MANY else DEEP
    if any(is_depthwise(module) for module in convolutions):
        return DEPTHWISE
    return LARGE_IMAGES if max(convolutions[0].stride) > 1 else SMALL_IMAGES
