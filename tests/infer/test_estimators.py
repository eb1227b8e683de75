"""Every estimator against enumeration of all 2^S gate vectors, S ≤ 10."""

from __future__ import annotations

import math

import pyro
import pytest
import torch

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.infer.estimators import ESTIMATORS, get_estimator
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import (
    NETS,
    Record,
    all_gates,
    enumerated_gradient,
    enumerated_moments,
    estimate,
    verify_estimator,
)

EDGES = (0.0, 1.0, 0.5, 0.04, 0.9)

UNBIASED = [
    ("paired", "units", (0.3, 0.7, 0.5)),
    ("paired", "branches", EDGES),
    ("paired", "mixed", EDGES),
    ("disarm", "units", (0.3, 0.7, 0.5)),
    ("disarm", "branches", (0.2, 0.9, 0.5)),
    ("disarm", "mixed", (0.2, 0.9, 0.5)),
    ("disarm", "shared_units", (0.2, 0.9, 0.5)),
    ("auto", "branches", EDGES),
]


@pytest.mark.statistical
@pytest.mark.parametrize(("estimator", "name", "thetas"), UNBIASED)
def test_unbiased(estimator: str, name: str, thetas: tuple[float, ...], record_property: Record) -> None:
    """Fails by chance at 6e-5 a gate, at most ten gates."""
    case = Case(NETS[name], thetas)
    moments = verify_estimator(estimator, case, draws=500)
    record_property("standard deviation of one estimate", moments.deviation.tolist())


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["mixed", "shared_units"])
def test_auto_is_unbiased_on_branches_and_second_order_on_units(name: str, record_property: Record) -> None:
    case = Case(NETS[name])
    moments = verify_estimator("auto", case, draws=500, unbiased=slice(0, case.net.num_shared))
    record_property("bias on units", moments.bias[case.net.num_shared :].tolist())
    exact = enumerated_moments("second_order", case).bias[case.net.num_shared :]
    noise = moments.deviation[case.net.num_shared :] / 500**0.5
    assert bool(((moments.bias[case.net.num_shared :] - exact).abs() <= 4 * noise).all())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("thetas", [(0.3, 0.7, 0.5), EDGES])
def test_exact_is_the_definition(name: str, thetas: tuple[float, ...]) -> None:
    case = Case(NETS[name], thetas)
    _, gradient = estimate(case, "exact", case.net.sample_gates(case.x))
    torch.testing.assert_close(gradient, enumerated_gradient(case), rtol=1e-9, atol=1e-12)


BIAS = [
    ("straight_through", "units", 0.4),
    ("straight_through", "smooth_units", 0.2),
    ("straight_through", "linear_units", 0.5),
    ("straight_through", "mixed", 1.2),  # large residual branches: `auto` uses neither of the two on branches
    ("second_order", "units", 0.2),
    ("second_order", "smooth_units", 0.4),
    ("second_order", "mixed", 0.5),
]


@pytest.mark.parametrize(("estimator", "name", "bound"), BIAS)
def test_bias_is_below_a_stated_bound(estimator: str, name: str, bound: float, record_property: Record) -> None:
    """Exact bias over the largest difference E[C | ξ_s=1] − E[C | ξ_s=0] of the network's gates."""
    case = Case(NETS[name])
    moments = enumerated_moments(estimator, case)
    relative = moments.bias / (enumerated_gradient(case) - case.net.price).abs().max()
    record_property("relative bias", relative.tolist())
    record_property("standard deviation of one draw", moments.deviation.tolist())
    assert 1e-3 <= float(relative.abs().max()) <= bound


# by hand --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_derived_by_hand_under_a_frozen_generator(seed: int) -> None:
    """o = v·(ξ ∘ a), C = ½ mean (y − o)² + const, so ∂C/∂ξ_ij = −(y_i − o_i) v_j a_ij / B."""
    theta = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    hidden = layers.Linear(3, 3, gate="unit")
    case = Case(
        lambda: torch.nn.Sequential(hidden, torch.nn.Linear(3, 1, bias=False)), theta.tolist(), likelihood="gaussian"
    )
    pyro.set_rng_seed(seed)
    xi = case.net.sample_gates(case.x)
    pyro.set_rng_seed(seed)
    assert torch.equal(case.net.sample_gates(case.x), xi)
    a = (case.x @ hidden.weight.T + hidden.bias).detach()
    v = case.net.net[1].weight.detach()[0]
    residual = case.y - (xi * a) @ v[:, None]
    derivative = -residual * v * a / nets.ROWS
    price = case.net.price
    straight = derivative.sum(0) + price
    second = (derivative * torch.where(xi > 0.5, 0.5 / theta, 0.5 / (1 - theta))).sum(0) + price
    value = float((0.5 * residual.square()).mean() + 0.5 * math.log(2 * math.pi) + (price * theta).sum())
    for estimator, expected in (("straight_through", straight), ("second_order", second), ("auto", second)):
        loss, gradient = estimate(case, estimator, xi)
        assert loss == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_paired_is_the_difference_of_one_gate_times_their_number() -> None:
    case = Case(nets.branches)
    xi = case.net.sample_gates(case.x)
    for seed in range(8):
        pyro.set_rng_seed(seed)
        _, gradient = estimate(case, "paired", xi)
        (chosen,) = gradient.nonzero()
        on, off = xi.clone(), xi.clone()
        on[:, chosen], off[:, chosen] = 1.0, 0.0
        difference = case.mean_loss(on) - case.mean_loss(off) + case.net.price[chosen]
        torch.testing.assert_close(gradient[chosen], case.net.num_gates * difference)


# the loss itself ------------------------------------------------------------------------------------------------------


def exact_loss(case: Case, theta: torch.Tensor) -> torch.Tensor:
    return get_estimator("exact")(case.objective, theta, theta[None], case.net.price)


@pytest.mark.parametrize("name", ["smooth_units", "branches"])
def test_the_loss_is_linear_in_each_theta(name: str) -> None:
    case = Case(NETS[name])
    theta = case.net.theta.detach().clone()
    with torch.no_grad():
        for s in range(case.net.num_gates):
            values = []
            for t in (0.0, 0.25, 1.0):
                theta[s] = t
                values.append(float(exact_loss(case, theta)))
            theta[s] = 0.5
            assert values[1] == pytest.approx(0.75 * values[0] + 0.25 * values[2], rel=1e-12)


def test_its_minimum_over_the_cube_is_at_a_vertex() -> None:
    case = Case(nets.branches)
    with torch.no_grad():
        vertices = torch.stack([exact_loss(case, vertex) for vertex in all_gates(case.net.num_gates)])
        inside = torch.stack([exact_loss(case, theta) for theta in torch.rand(60, case.net.num_gates).double()])
    assert float(inside.min()) > float(vertices.min())
    theta = all_gates(case.net.num_gates)[int(vertices.argmin())]
    case.set_theta(theta.tolist())
    gradient = enumerated_gradient(case)
    assert bool((gradient * torch.where(theta > 0.5, -1, 1) > 0).all())  # pushes outwards at every face


# names ----------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    for name, function in ESTIMATORS.items():
        assert get_estimator(name) is function and get_estimator(function) is function
    with pytest.raises(ConfigError, match=r"unknown estimator 'arm'; known are auto, concrete, disarm, exact, paired"):
        get_estimator("arm")


def test_exact_refuses_what_it_cannot_enumerate() -> None:
    case = Case(lambda: torch.nn.Sequential(layers.Linear(3, 17, gate="unit"), torch.nn.Linear(17, 3)))
    with pytest.raises(ConfigError, match="at most 16 gates, the network has 17; use 'auto'"):
        estimate(case, "exact", case.net.sample_gates(case.x))
