r"""Which learning rate a trained network wants that is pruned: a network trained plainly, then gated, under a budget.

    python examples/benchmarks/trained.py lenet300 --data-dir DIR
    python examples/benchmarks/trained.py mobilenet --before 14 --epochs 4 --budget macs=0.5 --images 3000 \
        --data-dir DIR

The network is trained by `fit` without pruning, on the first images of MNIST, then gated with the weights that it
has and trained again at the recommended learning rate times each of ``--rates``. The 5,000 training images behind these
are scored; the test images are not read. MobileNetV2 is a quarter as wide, for images of 16 x 16 in three channels.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

import bayesprune as bp
from bayesprune.data.images import Raw, make_splits
from bayesprune.infer import Categorical
from bayesprune.optim import OPTIMIZERS
from bayesprune.training import Budget, Settings

SCORED = 5_000
"""Training images that are scored."""


def main() -> None:
    """Train, prune at each rate, and print a table."""
    options = _options()
    torch.set_num_threads(1)
    splits = _splits(options.net, options.images, options.data_dir)
    shape = splits.input_shape
    torch.manual_seed(options.seed)
    model = _model(options.net, shape)
    recipe = bp.recommended(_gated(model, shape))
    train, scored = bp.data.loaders(splits, batch_size=recipe.batch_size, seed=options.seed)
    settings = Settings(lr=recipe.lr, optimizer=OPTIMIZERS[recipe.optimizer])
    history = bp.fit(model, train, epochs=options.before, val_loader=scored, method="none", settings=settings)
    print(f"before: {100 * history.rows[-1].val_accuracy:.2f} %")
    print("| rate | accuracy % | multiply-adds |\n| --- | --- | --- |")
    for factor in options.rates:
        net = bp.BayesianNet(_gated(model, shape), Categorical(recipe.label_smoothing), num_data=len(splits.train))
        how = replace(recipe, lr=recipe.lr * factor).settings(budget=Budget.parse(options.budget))
        dense = bp.cost(net, torch.zeros(1, *shape)).macs
        history = bp.fit(net, train, epochs=options.epochs, val_loader=scored, settings=how)
        left = bp.cost(bp.compact(net), torch.zeros(1, *shape)).macs / dense
        print(f"| {how.lr:.2g} | {100 * history.rows[-1].val_accuracy:.2f} | {left:.1%} |", flush=True)


def _model(name: str, shape: tuple[int, ...]) -> nn.Module:
    """The plain network."""
    if name == "lenet300":
        return bp.compact(bp.networks.lenet300(shape, 10).train())
    net = mobilenet_v2(num_classes=10, width_mult=0.25)
    net.features[0][0].stride = (1, 1)
    return net


def _gated(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A gated copy with the weights that it has; of LeNet inputs have gates too."""
    inputs = not any(isinstance(module, nn.Conv2d) for module in model.modules())
    return bp.convert(copy.deepcopy(model), example_input=torch.zeros(2, *shape), inputs=inputs)


def _splits(name: str, count: int, data_dir: str) -> bp.data.Splits:
    """The first images of MNIST's training set, and those behind them in place of test images."""
    train = bp.data.load("mnist", data_dir=data_dir).train
    images, labels = train.images[: count + SCORED], train.labels[: count + SCORED]
    if name == "mobilenet":
        images = F.adaptive_avg_pool2d(images.float(), 16).round().to(torch.uint8).repeat(1, 3, 1, 1)
    return make_splits("mnist", Raw(images[:count], labels[:count]), Raw(images[count:], labels[count:]), 10)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=("lenet300", "mobilenet"))
    parser.add_argument("--before", type=int, default=8, help="epochs without pruning")
    parser.add_argument("--epochs", type=int, default=6, help="epochs under the budget")
    parser.add_argument("--budget", default="macs=0.15")
    parser.add_argument("--images", type=int, default=6_000, help="training images")
    parser.add_argument("--rates", type=lambda text: [float(part) for part in text.split(",")], default=[1.0, 0.3, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", default="data", help="folder of torchvision's data sets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
