"""What is recommended depends on what a network is made of; for the networks by name it is one table."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.recipes import Recipe, recommended
from bayesprune.networks import NETWORKS, build
from bayesprune.optim import nesterov
from bayesprune.pruning import CostPrice
from bayesprune.training import Budget

MLP = (128, 3e-3, "adam", 1e-4, 0.2, 0.05, 1, False, False, 1.0)
LENET5 = (128, 4e-3, "adam", 1e-4, 0.36, 0.05, 2, False, True, 1.0)
RESMLP = (128, 2e-3, "adam", 1e-3, 0.4, 0.0, 4, False, False, 1.0)
SMALL = (128, 0.1, "sgd", 5e-4, 0.1, 0.0, 4, True, True, 1.0)
LARGE = (256, 0.1, "sgd", 1e-4, 0.1, 0.0, 4, True, True, 1.0)
TABLE = {  # batch size, lr, optimiser, weight decay, price, label smoothing, every, augment, accelerate, temperature
    "lenet300": MLP,
    "lenet5": LENET5,
    "lenet5-bypass": LENET5,
    "resmlp": RESMLP,
    "resmlp12": RESMLP,
    "resnet": SMALL,
    "resnet20": SMALL,
    "resnet56": SMALL,
    "vgg16": SMALL,
    "resnet18": LARGE,
    "resnet34": LARGE,
    "resnet50": LARGE,
}


@cache
def named(name: str) -> nn.Module:
    return build(name, (3, 32, 32), 10)


def units(**options: Any) -> BayesianNet:
    net = nn.Sequential(layers.Linear(4, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 2))
    return BayesianNet(net, num_data=50, **options)


def test_the_table_has_every_network():
    assert set(TABLE) >= set(NETWORKS)


@pytest.mark.parametrize("name", TABLE)
def test_networks_by_name(name: str):
    assert astuple(recommended(named(name))) == TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_normal_weights_change_what_is_recommended(name: str):
    changed = {"lr": 1e-2, "optimizer": "adam", "label_smoothing": 0.0, "every": 2, "temperature": 0.1}
    start = Recipe() if TABLE[name] is MLP else Recipe(*TABLE[name])  # batch, weight decay and price of plain networks
    assert recommended(named(name), weights="normal") == replace(start, **changed)
    assert astuple(Recipe())[:5] == (64, 2e-3, "adam", None, 0.25)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4)], (64, 3e-3, "adam", 5e-4)),
        ([nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, 4)], (64, 1e-3, "adam", 1e-4)),
        ([nn.Conv2d(3, 3, 1) for _ in range(8)], (64, 3e-4, "adam", 1e-4)),
        ([nn.Conv2d(3, 3, 1) for _ in range(7)], LENET5[:4]),
    ],
)
def test_other_networks_go_by_their_layers(parts: list[nn.Module], expected: tuple):
    assert astuple(recommended(nn.Sequential(*parts)))[:4] == expected


def test_normal_weights_are_seen_in_the_network():
    assert recommended(units(slab="normal")) == recommended(units(), weights="normal")
    assert recommended(units(slab="normal"), weights="point") == recommended(units())
    with pytest.raises(ConfigError, match="recommended: weights must be 'point' or 'normal', got 'gaussian'"):
        recommended(units(), weights="gaussian")


@pytest.mark.parametrize("prior", [FlatteningPrior(4.0), FlatteningPrior(18.0), FixedInclusion(0.3)])
def test_a_prior_that_was_given_says_what_gates_cost(prior: FlatteningPrior | FixedInclusion):
    """Also one that is equal to the default."""
    assert recommended(units(prior=prior)) == replace(recommended(units()), price=None)
    assert recommended(units(prior=prior)).settings().price is None
    assert recommended(units()).settings().price == CostPrice(0.2)


def test_settings_of_a_recipe():
    settings = recommended(named("resnet20")).settings()
    assert (settings.lr, settings.optimizer, settings.price, settings.every) == (0.1, nesterov, CostPrice(0.1), 4)
    assert recommended(units(slab="normal")).settings().temperature == 0.1


def test_changes_of_a_recipe_s_settings_are_taken_and_a_budget_takes_the_place_of_the_price():
    recipe, budget = recommended(named("resmlp")), Budget.parse("macs=0.4")
    settings = recipe.settings(budget=budget, lr=0.5)
    assert (settings.budget, settings.price, settings.lr, settings.every) == (budget, None, 0.5, 4)
    assert recipe.settings(price=CostPrice(2.0)).price == CostPrice(2.0)
    assert recipe.settings(price=None).price is None


def test_the_documentation_has_the_same_table():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    rows = page.split("### Recipes")[1].split("\n\n")[1].splitlines()[2:]
    told = {}
    for row in rows:
        names, batch, lr, optimizer, decay, price, smoothing, every, crops, gpu = row.strip("| ").split(" | ")
        recipe = Recipe(
            batch_size=int(batch),
            lr=float(lr),
            optimizer=optimizer.strip("`"),
            weight_decay=None if decay == "1/N" else float(decay),
            price=float(price),
            label_smoothing=float(smoothing),
            every=int(every),
            augment=crops != "no",
            accelerate=gpu == "yes",
        )
        told |= dict.fromkeys((name.strip("`") for name in names.split(", ")), recipe)
    assert {name: told[name] for name in NETWORKS} == {name: Recipe(*TABLE[name]) for name in NETWORKS}
