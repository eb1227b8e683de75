"""What the benchmark of whole runs trains: a network, its data, and the recipe that is recommended for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models import mobilenet_v2

import bayesprune as bp
from bayesprune.comparison.material import reduced
from bayesprune.data import Augment, EpochLoader, Splits
from bayesprune.data.images import Images, Raw, make_splits
from bayesprune.infer import Categorical
from bayesprune.networks import NETWORKS
from bayesprune.optim import OPTIMIZERS
from bayesprune.training import Budget, Settings

HELD_OUT = 10_000
"""Training images that are scored instead of the test images; of small sets a fifth."""


@dataclass(frozen=True)
class Case:
    """One network on one data set.

    Attributes:
        title: What it is called in tables.
        net: One of ``NETS``.
        data: Name of its data set.
        epochs: Length of its runs.
        limit: Number of training images, ``None`` for all.
        side: Pixels a side that images are averaged to, ``None`` for their own.
        width: Channels of its first stage, ``None`` for the network's own.
        inputs: Whether its inputs have gates.
        budget: What may be left of it, as ``--budget`` takes it; ``None`` for the recommended price.
    """

    title: str
    net: str
    data: str
    epochs: int
    limit: int | None = None
    side: int | None = None
    width: int | None = None
    inputs: bool = False
    budget: str | None = None


CASES = {
    "digits": Case("LeNet-300-100, digits", "lenet300", "digits", 60, inputs=True),
    "lenet300-20k": Case("LeNet-300-100, 20,000 of MNIST", "lenet300", "mnist", 15, 20_000, inputs=True),
    "lenet300": Case("LeNet-300-100, MNIST", "lenet300", "mnist", 40, inputs=True),
    "lenet5": Case("LeNet-5, 6,000 of MNIST", "lenet5", "mnist", 8, 6_000),
    "resmlp": Case("residual MLP of 24 branches, 20,000 of MNIST", "resmlp", "mnist", 10, 20_000),
    "resnet20": Case("ResNet-20, width 8, 16x16, 8,000 of CIFAR-10", "resnet", "cifar10", 16, 8_000, 16, 8),
    "lenet5-bypass": Case("LeNet-5 with by-passes, 10,000 of MNIST", "lenet5-bypass", "mnist", 10, 10_000),
    "vgg16": Case("VGG16, width 8, 6,000 of MNIST", "vgg16", "mnist", 10, 6_000, width=8),
    "mobilenet": Case(
        "MobileNetV2 converted, 6,000 of CIFAR-10",
        "mobilenet_v2",
        "cifar10",
        6,
        6_000,
        budget="macs=0.5",
    ),
}
ON_DEMAND = ("resnet20", "lenet5-bypass", "vgg16", "mobilenet")
"""Those that are trained only where they are asked for by name."""


def mobilenet(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Torchvision's MobileNetV2, half as wide, converted.

    As is usual for images of 32 x 32, its first convolution has stride 1.

    Args:
        input_shape: ``(3, height, width)``.
        num_classes: Number of outputs.
    """
    net = mobilenet_v2(num_classes=num_classes, width_mult=0.5)
    net.features[0][0].stride = (1, 1)
    return bp.convert(net, example_input=torch.zeros(2, *input_shape))


NETS = {**NETWORKS, "mobilenet_v2": mobilenet}


@dataclass(frozen=True)
class Setting:
    """A case with its data at hand.

    Attributes:
        case: The case.
        splits: Its data; ``test`` is what is scored.
    """

    case: Case
    splits: Splits

    def gated(self) -> nn.Module:
        """The gated network, initialised from torch's global random state."""
        extra = {} if self.case.width is None else {"width": self.case.width}
        return NETS[self.case.net](self.splits.input_shape, self.splits.num_classes, **extra)

    def plain(self) -> nn.Module:
        """The same network with the same initial weights, without gates."""
        return bp.compact(self.gated().train())

    def bayesian(self) -> bp.BayesianNet:
        """The gated network as a Bayesian one, as its recipe has it."""
        count, recipe = len(self.splits.train), self.recipe
        precision = 1.0 if recipe.weight_decay is None else recipe.weight_decay * count
        likelihood = Categorical(recipe.label_smoothing)
        return bp.BayesianNet(self.gated(), likelihood, num_data=count, weight_precision=precision)

    @cached_property
    def recipe(self) -> bp.training.Recipe:
        """What is recommended for the network."""
        with torch.random.fork_rng(devices=[]):
            return bp.recommended(self.gated())

    @property
    def settings(self) -> Settings:
        """How `fit` trains it: by the recipe, under the budget of the case if it has one."""
        return self.recipe.settings(budget=None if self.case.budget is None else Budget.parse(self.case.budget))

    @property
    def example(self) -> torch.Tensor:
        """One input, shape ``(1, C, H, W)``."""
        return torch.zeros(1, *self.splits.input_shape)

    @cached_property
    def whole(self) -> bp.types.Cost:
        """What the network without gates costs."""
        with torch.random.fork_rng(devices=[]):
            return bp.cost(self.plain(), self.example)

    def loaders(self, seed: int) -> tuple[EpochLoader, DataLoader]:
        """Training batches in the order of ``seed``, cropped and flipped if the recipe says so, and test batches."""
        varied = self.recipe.augment and self.splits.input_shape[0] == 3
        augment = Augment(pad=min(self.splits.input_shape[1:]) // 8) if varied else None
        return bp.data.loaders(self.splits, self.recipe.batch_size, seed, augment=augment)

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network without gates, with the recipe's learning rate and weight decay."""
        recipe = self.recipe
        decay = 1 / len(self.splits.train) if recipe.weight_decay is None else recipe.weight_decay
        extra = {"fused": True} if recipe.optimizer == "adam" else {}
        return OPTIMIZERS[recipe.optimizer](net.parameters(), lr=recipe.lr, weight_decay=decay, **extra)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The cross-entropy, with the recipe's smoothing of labels."""
        return F.cross_entropy(outputs, labels, label_smoothing=self.recipe.label_smoothing)


def prepare(case: Case, data_dir: str, validate: bool) -> Setting:
    """Read the data of a case.

    Args:
        case: The case.
        data_dir: Folder of torchvision's data sets.
        validate: Whether training images are held out and scored instead of the test images.
    """
    if not validate:
        splits = bp.data.load(case.data, data_dir=data_dir, limit=case.limit)
    else:
        splits = held_out(bp.data.load(case.data, data_dir=data_dir), case.limit)
    return Setting(case, splits if case.side is None else reduced(splits, case.side))


def held_out(splits: Splits, limit: int | None) -> Splits:
    """The last training images as those to be scored, and the first ``limit`` of the others to train on.

    Args:
        splits: The whole data set.
        limit: Number of training images, ``None`` for all.
    """

    def part(images: Images, chosen: slice) -> Raw:
        return Raw(images.images[chosen], images.labels[chosen])

    kept = len(splits.train) - min(HELD_OUT, len(splits.train) // 5)
    train, held = part(splits.train, slice(kept)), part(splits.train, slice(kept, None))
    return make_splits(splits.name, train, held, splits.num_classes, limit)


def shorter(case: Case, epochs: int | None, data: str | None) -> Case:
    """The case with another length or data set, where one is given."""
    return replace(case, epochs=epochs or case.epochs, data=data or case.data)
