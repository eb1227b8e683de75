"""Gaussian slabs with node selection: size, calibration and unknown inputs, against the dense network.

    python examples/benchmarks/ssig.py mlp --data-dir DIR --outside PATH
    python examples/benchmarks/ssig.py lenet5 --data-dir DIR --outside PATH
    python examples/benchmarks/ssig.py digits

The networks are those of SS-IG (Jantre, Bhattacharya & Maiti 2021, arXiv 2108.11000); ``mlp-ssig`` has its prior, slab,
activation and estimator, too, and names that end in ``-elbo`` train by the evidence lower bound, at temperature 1. PATH
is an image folder (PATH/test/<class>/...) whose test images, in grey, are inputs from outside. The dense network has
the same layers, point weights and cross-entropy alone, and as many epochs. Pixels are divided by their root mean square
and not centred, for both: a background of 0 passes no noise on.

Of the Bayesian network accuracy, calibration and uncertainty are those of the mean of 32 networks drawn from its
posterior; accuracy is also given for the compacted network at the posterior means. ``--validate`` leaves the last sixth
of the training images out and scores on them: that is how the settings were chosen.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from report import machine, table
from torch import Tensor, nn
from torch.nn import functional as F

import bayesprune as bp
from bayesprune import layers, metrics
from bayesprune.data.images import Images, Raw, Splits
from bayesprune.distributions import FixedInclusion, FlatteningPrior, layer_adaptive_log_gamma
from bayesprune.infer import ClassPrediction
from bayesprune.training import Budget, Schedule, Settings

DRAWS = 32
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
class Recipe:
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
RECIPES = {
    "mlp": Recipe(epochs=50, temperature=0.2),
    "mlp-inputs": Recipe(epochs=50, temperature=0.2, build=mlp_inputs),
    "mlp-elbo": Recipe(epochs=50),
    "mlp-ssig": Recipe(
        epochs=50, build=mlp_silu, log_gamma=None, slab_scale=1.0, settings={"estimator": "concrete", "lr": 1e-3}
    ),
    "lenet5": Recipe(epochs=30, build=bp.networks.lenet5, temperature=0.2, settings=CONVOLUTIONS),
    "lenet5-elbo": Recipe(epochs=30, build=bp.networks.lenet5, settings=CONVOLUTIONS),
    "digits": Recipe(epochs=60, data="digits", batch=32, temperature=1e-3),
    "digits-elbo": Recipe(epochs=60, data="digits", batch=32),
}

SIZES = ["seed", "accuracy %", "at the means %", "dense %", "multiply-adds", "parameters", "gates on", "converged"]
SIZES += ["seconds", "dense seconds"]
FIGURES = ["seed", "network", "accuracy %", "NLL", "Brier", "ECE %"]


@dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
        size: Numbers of the first table, in the order of its header, but for the gates.
        gates: How many gates are on, layer by layer.
        figures: By network, calibration.
        found: By input from outside, and score, the area under the ROC curve.
    """

    size: list[float]
    gates: str
    figures: dict[str, metrics.Calibration]
    found: dict[tuple[str, str], float]


# data ---------------------------------------------------------------------------------------------------------------


def load(recipe: Recipe, data_dir: str, limit: int | None, validate: bool) -> Splits:
    """The data set, its pixels not centred; with ``validate`` the end of the training images instead of the test."""
    splits = bp.data.load(recipe.data, data_dir=data_dir, limit=limit)
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


# training -----------------------------------------------------------------------------------------------------------


def train_dense(recipe: Recipe, splits: Splits, seed: int, epochs: int) -> nn.Module:
    """The network without gates, trained by Adam on the cross-entropy, with the learning rates of `fit`."""
    torch.manual_seed(seed)
    net = bp.compact(recipe.build(splits.input_shape).train())
    loader, _ = bp.data.loaders(splits, recipe.batch, seed)
    schedule = Schedule(epochs, len(loader))
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.dense_lr, fused=True)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for number, (x, y) in enumerate(loader):
            rate = recipe.dense_lr * schedule.learning_rate(epoch * len(loader) + number)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def prior(recipe: Recipe, splits: Splits) -> FlatteningPrior | FixedInclusion:
    """Of the gates."""
    if recipe.log_gamma is not None:
        return FlatteningPrior(recipe.log_gamma)
    widths = [torch.Size(splits.input_shape).numel(), *WIDTHS, splits.num_classes]
    prices = layer_adaptive_log_gamma(widths, len(splits.train))
    return FixedInclusion(log_gamma=torch.tensor(prices).repeat_interleave(torch.tensor(WIDTHS)))


def train_bayesian(recipe: Recipe, splits: Splits, seed: int, epochs: int) -> tuple[bp.BayesianNet, float]:
    """The network with Gaussian slabs, and which share of its gates has converged."""
    torch.manual_seed(seed)
    net = recipe.build(splits.input_shape)
    loader, _ = bp.data.loaders(splits, recipe.batch, seed)
    bnn = bp.BayesianNet(
        net, num_data=len(splits.train), prior=prior(recipe, splits), weights="normal", slab_scale=recipe.slab_scale
    )
    history = bp.fit(bnn, loader, epochs=epochs, settings=Settings(temperature=recipe.temperature, **recipe.settings))
    return bnn.eval(), history.rows[-1].gates_converged


# scores -------------------------------------------------------------------------------------------------------------


def predict(posterior: nn.Module, x: Tensor) -> ClassPrediction:
    """What the same networks, drawn from the posterior, predict at every call."""
    assert isinstance(posterior, bp.BayesianNet)
    torch.manual_seed(0)
    prediction = posterior.predict(x, DRAWS)
    assert isinstance(prediction, ClassPrediction)
    return prediction


@torch.no_grad()
def run(recipe: Recipe, splits: Splits, outside: dict[str, Tensor], seed: int, epochs: int) -> Outcome:
    """Train both networks and measure them."""
    began = time.perf_counter()
    with torch.enable_grad():
        dense = train_dense(recipe, splits, seed, epochs)
    middle = time.perf_counter()
    with torch.enable_grad():
        bnn, converged = train_bayesian(recipe, splits, seed, epochs)
    end = time.perf_counter()

    x, y = splits.test[:]
    small, posterior = bp.compact(bnn), bp.compact(bnn, posterior=True)
    inside = predict(posterior, x)
    of_dense = dense(x).double().softmax(1)
    figures = {
        "posterior": metrics.calibration(inside.mean.double(), y),
        "at the means": metrics.calibration(small(x).double().softmax(1), y),
        "dense": metrics.calibration(of_dense, y),
    }
    found = {}
    for name, images in outside.items():
        theirs = predict(posterior, images)
        found[name, "predictive entropy"] = metrics.auroc(inside.entropy, theirs.entropy)
        found[name, "mutual information"] = metrics.auroc(inside.mutual_information, theirs.mutual_information)
        entropy = metrics.entropy(dense(images).double().softmax(1))
        found[name, "dense: entropy"] = metrics.auroc(metrics.entropy(of_dense), entropy)
    whole, left = bp.cost(dense, x), bp.cost(small, x)
    assert whole.macs is not None and left.macs is not None
    size = [100 * figures[name].accuracy for name in ("posterior", "at the means", "dense")]
    size += [100 * left.macs / whole.macs, 100 * left.params / whole.params, 100 * converged]
    gates = "-".join(str(int((theta > 0.5).sum())) for theta in bnn.gate_probs().values())
    return Outcome([*size, end - middle, middle - began], gates, figures, found)


# tables -------------------------------------------------------------------------------------------------------------


def size_table(outcomes: dict[str, Outcome]) -> str:
    """Accuracy and cost, a row a seed, and their means."""
    mean = [statistics.mean(column) for column in zip(*(o.size for o in outcomes.values()), strict=True)]
    rows = []
    for name, size, gates in [*((n, o.size, o.gates) for n, o in outcomes.items()), ("**mean**", mean, "")]:
        *shares, converged, seconds, dense_seconds = size
        cells = [f"{value:.2f}" for value in shares[:3]] + [f"{value:.2f} %" for value in shares[3:]]
        rows.append([name, *cells, gates, f"{converged:.2f} %", f"{seconds:.0f}", f"{dense_seconds:.0f}"])
    return table(SIZES, rows)


def calibration_table(outcomes: dict[str, Outcome]) -> str:
    """Figures of the predictions, a row for each seed and network, and their means."""
    rows: list[list[str]] = []
    columns: dict[str, list[tuple[float, ...]]] = {}
    for seed, outcome in outcomes.items():
        for network, c in outcome.figures.items():
            columns.setdefault(network, []).append((100 * c.accuracy, c.nll, c.brier, 100 * c.ece))
            rows.append([seed, network, *_figures(columns[network][-1])])
    for network, values in columns.items():
        means = [statistics.mean(column) for column in zip(*values, strict=True)]
        rows.append(["**mean**", network, *_figures(means)])
    return table(FIGURES, rows)


def _figures(values: tuple[float, ...] | list[float]) -> list[str]:
    accuracy, nll, brier, ece = values
    return [f"{accuracy:.2f}", f"{nll:.4f}", f"{brier:.4f}", f"{ece:.2f}"]


def outside_table(outcomes: dict[str, Outcome]) -> str:
    """Area under the ROC curve of telling inputs from outside by a score, mean over seeds (lowest)."""
    found = [outcome.found for outcome in outcomes.values()]
    scores = list(dict.fromkeys(score for _, score in found[0]))
    rows = []
    for name in dict.fromkeys(name for name, _ in found[0]):
        values = [[each[name, score] for each in found] for score in scores]
        rows.append([name, *(f"{statistics.mean(column):.4f} ({min(column):.4f})" for column in values)])
    return table(["outside", *scores], rows)


def main() -> None:
    """Run what the command line asks for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=sorted(RECIPES))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--outside", help="image folder with inputs from outside")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--temperature", type=float, help="instead of the recipe's")
    parser.add_argument("--limit", type=int, help="number of training images, instead of all")
    parser.add_argument("--validate", action="store_true", help="score on training images that are left out")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    recipe = RECIPES[options.net]
    if options.temperature is not None:
        recipe = replace(recipe, temperature=options.temperature)
    epochs = options.epochs or recipe.epochs
    splits = load(recipe, options.data_dir, options.limit, options.validate)
    outside = outsiders(splits, options.outside)
    print(machine(), flush=True)
    scored = "held-out training" if options.validate else "test"
    print(f"{options.net}, {epochs} epochs, temperature {recipe.temperature}, {len(splits.test)} {scored} images")
    outcomes = {}
    for seed in options.seeds:
        outcomes[str(seed)] = run(recipe, splits, outside, seed, epochs)
        print(f"seed {seed}:", [round(value, 2) for value in outcomes[str(seed)].size], flush=True)
    print("\n" + size_table(outcomes))
    print("\n" + calibration_table(outcomes))
    print("\nAUROC of telling inputs from outside from test images, mean over seeds (lowest)\n")
    print(outside_table(outcomes))


if __name__ == "__main__":
    main()
