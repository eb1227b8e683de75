"""Numbers that users pass are checked by one rule, wherever they enter; the message names the argument."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune import checked, layers
from bayesprune.errors import ConfigError
from bayesprune.infer import Categorical, GateELBO, Gaussian, LearnedGaussian
from bayesprune.optim.projected import ProjectedGateSGD
from bayesprune.pruning import CostPrice, RemovalMonitor
from bayesprune.training import Budget, Schedule, Settings
from tests.training.problems import Batches, bayesian, examples, units

WHOLE = [3, np.int64(3), np.array(3), torch.tensor(3), np.uint8(3)]
NO_WHOLE = [1.5, 3.0, True, np.True_, math.nan, math.inf, "3", None, [3], np.array([3]), torch.tensor(3.0), 3 + 0j]
REAL = [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)]
NO_REAL = [
    math.nan,
    math.inf,
    -math.inf,
    True,
    "0.5",
    None,
    [0.5],
    torch.tensor([0.5]),
    torch.tensor(True),
    10**400,
    1j,
]


@pytest.mark.parametrize("value", WHOLE)
def test_whole_numbers(value: object) -> None:
    found = checked.whole("n", value)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [*NO_WHOLE, 0, 8, -1, 10**60])
def test_what_is_no_whole_number_in_range(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^f: n must be a whole number, from 1 to 7, got .*; try 2$") as caught:
        checked.whole("f: n", value, 1, 7, hint="try 2")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 150


@pytest.mark.parametrize("value", REAL)
def test_real_numbers(value: object) -> None:
    found = checked.real("x", value, 0, 1)
    assert found == 0.5 and type(found) is float


@pytest.mark.parametrize("value", [*NO_REAL, 0, -1.0])
def test_what_is_no_positive_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^f: x must be positive and finite, got "):
        checked.real("f: x", value, 0)


def test_ends_of_an_interval() -> None:
    assert checked.real("x", 0, 0, 1, "[)") == 0.0
    assert checked.real("x", 1, 0, 1, "(]") == 1.0
    assert checked.real("x", math.inf, 0, math.inf, "[]") == math.inf
    assert checked.real("x", -(10**300)) == -1e300
    for ends, value in (("(]", 0), ("[)", 1), ("()", 1), ("[]", 1.1)):
        with pytest.raises(ConfigError, match=re.escape(f"x must be in {ends[0]}0, 1{ends[1]}, got {value}")):
            checked.real("x", value, 0, 1, ends)
    with pytest.raises(ConfigError, match="x must be finite and not negative, got -1"):
        checked.real("x", -1, 0, ends="[)")
    with pytest.raises(ConfigError, match="x must be finite, got inf"):
        checked.real("x", math.inf)


def schedule(name: str) -> Callable[[object], object]:
    return lambda value: Schedule(**{"epochs": 2, "steps_per_epoch": 3, name: value})  # type: ignore[arg-type]


def settings(name: str) -> Callable[[object], object]:
    return lambda value: Settings(**{name: value})  # type: ignore[arg-type]


def network(name: str) -> Callable[[object], object]:
    return lambda value: bayesian(units(), **{name: value, **({"slab": "normal"} if name == "slab_scale" else {})})


COUNTS: dict[str, Callable[..., object]] = {
    "fit: epochs": lambda value: bp.fit(bayesian(units()), Batches(*examples()), epochs=value),
    "BayesianNet: num_data": lambda value: bayesian(units(), num_data=value),
    "predict: num_samples": lambda value: bayesian(units()).predict(examples()[0], value),
    "Settings: every": settings("every"),
    "Settings: patience": settings("patience"),
    **{f"Schedule: {name}": schedule(name) for name in ("epochs", "steps_per_epoch", "checks_per_epoch")},
    "GateELBO: num_particles": lambda value: GateELBO(num_particles=value),
    "RemovalMonitor: patience": lambda value: RemovalMonitor(3, value),
    "Gate: size": layers.Gate,
    "calibration: bins": lambda value: bp.metrics.calibration(torch.eye(2), torch.arange(2), value),
    "gaussian likelihood: each entry of shape": lambda value: LearnedGaussian(shape=(value,)),
    "sparse_regression: num_data": lambda value: bp.selection.sparse_regression(value, 3, 1),
    "sparse_regression: seed": lambda value: bp.selection.sparse_regression(3, 3, 1, seed=value),
    "friedman_regression: num_inputs": lambda value: bp.selection.friedman_regression(3, value),
    "layer_adaptive_log_gamma: num_data": lambda value: bp.distributions.layer_adaptive_log_gamma([1, 2, 1], value),
    "Augment: pad": lambda value: bp.data.Augment(pad=value),
    "digits: limit": lambda value: bp.data.load("digits", limit=value),
    "lenet300: num_classes": lambda value: bp.networks.lenet300(num_classes=value),
    "lenet300: each entry of input_shape": lambda value: bp.networks.lenet300((value,)),
    "resmlp: depth": lambda value: bp.networks.resmlp(depth=value),
    "resnet: width": lambda value: bp.networks.resnet(width=value),
    "vgg16: width": lambda value: bp.networks.vgg16(width=value),
}


@pytest.mark.parametrize("value", [1.5, math.nan, True, -1, "3"])
@pytest.mark.parametrize(("name", "call"), COUNTS.items(), ids=COUNTS)
def test_every_count_of_the_public_calls_is_checked(name: str, call: Callable[..., object], value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(name)} must be a whole number") as caught:
        call(value)
    assert "\n" not in str(caught.value)


AMOUNTS: dict[str, Callable[..., object]] = {
    "BayesianNet: weight_precision": network("weight_precision"),
    "BayesianNet: slab_scale": network("slab_scale"),
    "Settings: lr": settings("lr"),
    "Settings: temperature": settings("temperature"),
    **{f"Schedule: {name}": schedule(name) for name in ("travel", "exact_share", "last", "slab_by", "sample_from")},
    "budget: the fraction of the starting cost": lambda value: Budget("macs", value),
    "CostPrice: nu": CostPrice,
    "CostPrice: params": lambda value: CostPrice(1.0, value),
    "Gate: the initial theta": lambda value: layers.Gate(2, theta=value),
    "categorical likelihood: label_smoothing": Categorical,
    "gaussian likelihood: the noise scale": Gaussian,
    "gaussian likelihood: prior_count": lambda value: LearnedGaussian(prior_count=value),
    "interval: level": lambda value: bayesian(units(), likelihood="gaussian").predict(examples()[0]).interval(value),  # type: ignore[attr-defined]
    "ProjectedGateSGD: lr": lambda value: ProjectedGateSGD([torch.zeros(1)], value),
    "select: fdr": lambda value: bp.selection.select(torch.ones(2), value),
    "spike-and-slab regression: slab_scale": lambda value: bp.selection.mean_field(
        torch.ones(2, 1), torch.ones(2), inclusion=0.5, slab_scale=value
    ),
    "sparse_regression: effect": lambda value: bp.selection.sparse_regression(3, 3, 1, effect=value),
}


@pytest.mark.parametrize("value", [math.nan, -math.inf, True, -1, "3", [0.5]])
@pytest.mark.parametrize(("name", "call"), AMOUNTS.items(), ids=AMOUNTS)
def test_every_amount_of_the_public_calls_is_checked(name: str, call: Callable[..., object], value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(name)} must be ") as caught:
        call(value)
    assert "\n" not in str(caught.value)


def test_weights_at_rest_are_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match=r"lr must be positive and finite, got 0\.0; to let weights rest, set their"):
        Settings(lr=0.0)


def test_numbers_of_numpy_are_kept_as_plain_ones() -> None:
    assert type(Settings(lr=np.float64(0.1), every=np.int64(2)).lr) is float  # type: ignore[arg-type]
    assert type(bayesian(units(), num_data=np.int64(9)).num_data) is int  # type: ignore[arg-type]
    assert Schedule(np.int64(2), np.int64(3)).steps == 6  # type: ignore[arg-type]
    assert type(CostPrice(np.float32(0.5)).nu) is float  # type: ignore[arg-type]


@pytest.mark.parametrize("widths", [(2, 3, 0), (2, 1.5, 3), (2, 3)])
def test_widths_of_networks_are_checked(widths: tuple) -> None:
    with pytest.raises(ConfigError, match=r"^lenet5: (each entry of )?widths must be "):
        bp.networks.lenet5(widths=widths)
