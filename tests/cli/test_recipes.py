"""Options that were not given come from the network's recipe; those that were given stay."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from bayesprune.cli.config import resolve
from bayesprune.errors import ConfigError
from bayesprune.networks import NETWORKS


def test_a_run_without_options_is_as_the_command_lines_page_says():
    """Nor may the results of such runs change unseen."""
    assert asdict(resolve({})) == {
        "net": "lenet300",
        "data": "digits",
        "epochs": 100,
        "seed": 0,
        "batch_size": 128,
        "weights": None,
        "weights_sha256": None,
        "num_classes": None,
        "freeze_weights": False,
        "freeze_statistics": False,
        "layer_decay": 1.0,
        "lr": 3e-3,
        "price": 0.2,
        "log_gamma": None,
        "label_smoothing": 0.05,
        "estimator": "auto",
        "slab": "point",
        "device": "cpu",
        "limit": None,
        "data_dir": "data",
        "budget": None,
        "precision": "float32",
        "compile": False,
        "strategy": "auto",
        "augment": "none",
        "every": 1,
        "weight_decay": 1e-4,
        "optimizer": "adam",
        "temperature": 1.0,
    }


@pytest.mark.parametrize("net", sorted(NETWORKS))
def test_every_recipe_passes_the_check(net: str):
    resolve({"net": net, "device": "cpu"}).check()


@pytest.mark.parametrize("net", ["lenet9", "56", "vgg", ""])
def test_an_unknown_network_is_refused_before_anything_is_read(net: str):
    with pytest.raises(ConfigError, match=f"unknown network {net!r}"):
        resolve({"net": net})


def test_recipes_of_residual_networks():
    small, large, mlp = (resolve({"net": net}) for net in ("resnet56", "resnet50", "resmlp"))
    assert (small.optimizer, small.lr, small.batch_size, small.weight_decay, small.every) == ("sgd", 0.1, 128, 5e-4, 4)
    assert (large.optimizer, large.lr, large.batch_size, large.weight_decay) == ("sgd", 0.1, 256, 1e-4)
    assert small.label_smoothing == large.label_smoothing == mlp.label_smoothing == 0
    assert (mlp.optimizer, mlp.price, mlp.every, mlp.weight_decay) == ("adam", 0.4, 4, 60 / 60_000)


def test_options_that_were_given_stay():
    given = {"net": "resnet20", "lr": 0.5, "batch_size": 7, "optimizer": "adam", "weight_decay": 0.0, "every": 9}
    config = resolve({**given, "label_smoothing": 0.2, "price": 3.0})
    assert {name: getattr(config, name) for name in given} == given
    assert (config.label_smoothing, config.price) == (0.2, 3.0)


@pytest.mark.parametrize(
    ("options", "augment"),
    [
        ({"net": "resnet20", "data": "cifar10"}, "crop-flip"),
        ({"net": "vgg16", "data": "cifar100", "augment": "auto"}, "crop-flip"),
        ({"net": "resnet18", "data": "imagefolder:birds"}, "crop-flip"),
        ({"net": "resnet20", "data": "mnist"}, "none"),
        ({"net": "resnet20", "data": "digits"}, "none"),
        ({"net": "resnet20", "data": "cifar10", "augment": "none"}, "none"),
        ({"net": "lenet300", "data": "cifar10"}, "none"),
        ({"net": "lenet300", "data": "digits", "augment": "crop-flip"}, "crop-flip"),
    ],
)
def test_colour_images_are_varied_where_the_recipe_has_it(options: dict[str, str], augment: str):
    assert resolve(options).augment == augment


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_taken_where_there_is_one_and_it_is_faster(monkeypatch: pytest.MonkeyPatch, there: bool):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert resolve({"net": "resnet56"}).device == ("cuda" if there else "cpu")
    assert resolve({"net": "lenet300"}).device == resolve({"net": "resmlp"}).device == "cpu"
    assert resolve({"net": "resnet56", "device": "cpu"}).device == "cpu"


def test_one_of_budget_price_and_log_gamma_prices_structures():
    assert resolve({"budget": "macs=0.5"}).price is None
    assert resolve({"log_gamma": 0.1}).price is None
    assert resolve({"price": 0.5}).price == 0.5
    for two in ({"budget": "macs=0.5", "log_gamma": 0.1}, {"price": 0.5, "log_gamma": 0.1}):
        with pytest.raises(ConfigError, match="two ways to price structures"):
            resolve(two).check()
