"""The networks and the data of a comparison: by name, or as the user gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.comparison.plan import Task
from bayesprune.conversion import convert
from bayesprune.data import Augment, EpochLoader, Splits, load, loaders
from bayesprune.data.images import Images, Raw, class_mixed_order, make_splits
from bayesprune.errors import ConfigError
from bayesprune.layers import gates_of
from bayesprune.methods.svi.recipes import Recipe, recommended
from bayesprune.networks import FAMILIES, NETWORKS, build
from bayesprune.networks.images import initialise
from bayesprune.pruning import compact

Builder = Callable[[tuple[int, ...], int], nn.Module]
"""Makes a network of the shape of one example and the number of classes."""


@dataclass(frozen=True)
class Material:
    """Where networks and data come from.

    Attributes:
        data_dir: Folder of torchvision's data sets.
        networks: By name, functions that build networks which the package has not; with gates, unless
            the task has them put by `bayesprune.convert`.
        data: By name, data sets which it has not.

    Examples:
        >>> digits = Material().splits(Task("lenet300", "digits", epochs=2, limit=200))
        >>> len(digits.train), len(held_out(digits, 20).train)
        (200, 180)
    """

    data_dir: str = "data"
    networks: Mapping[str, Builder] = field(default_factory=dict)
    data: Mapping[str, Splits] = field(default_factory=dict)

    def splits(self, task: Task) -> Splits:
        """Training and test examples.

        Raises:
            ConfigError: for a limit or a side of data that the user gives.
            BayesPruneError: as `bayesprune.data.load`.
        """
        if task.data in self.data:
            if (task.limit, task.side) != (None, None):
                raise ConfigError(f"compare: {task.data!r} is given as it is to be used; leave out its limit and side")
            return self.data[task.data]
        return _loaded(task.data, self.data_dir, task.limit, task.side)

    def held_out(self, task: Task, share: float) -> Splits:
        """Training examples alone: a share of them in place of the test examples.

        Args:
            task: The task.
            share: Which share.
        """
        splits = self.splits(task)
        return held_out(splits, max(1, round(share * len(splits.train))))

    def network(self, task: Task, splits: Splits) -> nn.Module:
        """The gated network, initialised from torch's global random state.

        Args:
            task: The task.
            splits: Its data.

        Raises:
            ConfigError: for an unknown network.
            BayesPruneError: as `bayesprune.convert`, where that puts the gates.
        """
        net = self._built(task, splits)
        if not task.convert:
            return net
        return convert(compact(net) if gates_of(net) else net, example_input=example(splits))

    def _built(self, task: Task, splits: Splits) -> nn.Module:
        """The network as it is known by its name.

        Args:
            task: The task.
            splits: Its data.
        """
        shape, classes = splits.input_shape, splits.num_classes
        if task.net in self.networks:
            return self.networks[task.net](shape, classes)
        if task.width is None:
            return build(task.net, shape, classes)
        family = re.fullmatch(r"([a-z]+)(\d+)", task.net)
        if task.net in NETWORKS:
            return NETWORKS[task.net](shape, classes, width=task.width)
        if family is None or family[1] not in FAMILIES:
            raise ConfigError(f"compare: {task.net!r} is no network that has a width; leave the width out")
        return FAMILIES[family[1]](int(family[2]), shape, classes, width=task.width)  # type: ignore[call-arg]

    def recipe(self, task: Task, splits: Splits) -> Recipe:
        """How the network is trained, whichever method prunes it; draws no random number.

        Args:
            task: The task.
            splits: Its data.
        """
        with torch.random.fork_rng(devices=[]):
            return recommended(self.network(task, splits))


@lru_cache(maxsize=4)
def _loaded(name: str, data_dir: str, limit: int | None, side: int | None) -> Splits:
    splits = load(name, data_dir=data_dir, limit=limit)
    return splits if side is None else reduced(splits, side)


def batches(splits: Splits, recipe: Recipe, seed: int) -> tuple[EpochLoader, torch.utils.data.DataLoader]:
    """Training batches in the order of a seed, cropped and flipped if the recipe says so, and those that are scored.

    Args:
        splits: The data.
        recipe: How the network is trained.
        seed: Of order and augmentation.
    """
    varied = recipe.augment and splits.input_shape[0] == 3
    augment = Augment(pad=min(splits.input_shape[1:]) // 8) if varied else None
    return loaders(splits, recipe.batch_size, seed, augment=augment)


def example(splits: Splits) -> Tensor:
    """One input, shape ``(1, C, H, W)``."""
    return torch.zeros(1, *splits.input_shape)


def held_out(splits: Splits, count: int, limit: int | None = None) -> Splits:
    """Training images alone: ``count`` of them, classes mixed, as those to be scored, and others to train on.

    Args:
        splits: The whole data set; its test images are not looked at.
        count: How many are held out.
        limit: How many of the others are trained on; ``None`` for all.
    """
    order = class_mixed_order(splits.train.labels)

    def part(chosen: Tensor) -> Raw:
        return Raw(splits.train.images[chosen], splits.train.labels[chosen])

    return make_splits(splits.name, part(order[:-count]), part(order[-count:]), splits.num_classes, limit)


def reduced(splits: Splits, side: int) -> Splits:
    """The same images with ``side`` pixels a side, each the mean of those that it stands for.

    Args:
        splits: The data.
        side: Pixels a side.
    """

    def smaller(images: Images) -> Raw:
        pixels = F.adaptive_avg_pool2d(images.images.float(), side)
        return Raw(pixels.round().to(torch.uint8), images.labels)

    return make_splits(splits.name, smaller(splits.train), smaller(splits.test), splits.num_classes)


def fresh(net: nn.Module) -> nn.Module:
    """Give a plain network new weights, in place, as its modules draw them when they are made.

    With batch normalisation convolutions begin as those of `bayesprune.networks` that have it.

    Raises:
        TypeError: for parameters of a module that cannot draw them.
    """
    for name, module in net.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif any(True for _ in module.parameters(recurse=False)):
            raise TypeError(f"{name}: a {type(module).__name__} does not say how its weights begin")
    if any(isinstance(module, _BatchNorm) for module in net.modules()):
        initialise(net)
    return net
