"""Prices against the derivative of the expected cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate
from bayesprune.pruning import CostPrice, ExpectedCost, cost, marginal_cost
from bayesprune.types import Cost
from tests.pruning.costed import branches, example, nested, normalised_conv, perceptron, probabilities


@pytest.mark.parametrize("build", [normalised_conv, perceptron, branches])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_price_is_the_derivative_of_twice_nu_times_the_root(build: Callable[[], nn.Module], weight: float) -> None:
    """Central differences with step 0.01 in float32 are good to about 1e-3."""
    net, x = build(), example(build)
    expected, theta = ExpectedCost(net, x), probabilities(net)
    reference = cost(net, x)
    assert reference.macs is not None
    price = CostPrice(0.3, weight).relative_to(reference)(expected, theta)

    def penalty(name: str, s: int, t: float) -> float:
        moved = {n: v.clone() for n, v in theta.items()}
        moved[name][s] = t
        params, macs = (float(v) for v in expected(moved).values())
        return 2 * 0.3 * ((params / reference.params) ** weight * (macs / reference.macs) ** (1 - weight)) ** 0.5

    for name, value in theta.items():
        for s, t in enumerate(value.tolist()):
            if 0.01 < t < 0.99:
                slope = (penalty(name, s, t + 0.01) - penalty(name, s, t - 0.01)) / 0.02
                assert float(price[name][s]) == pytest.approx(slope, rel=2e-3, abs=1e-5)


def test_price_of_a_perceptron_by_hand() -> None:
    """One hidden layer of 3 units at θ = ½, 2 inputs, 1 output, no biases: E[params] = 1.5 · 3 = 4.5 of 9."""
    net = nn.Sequential(layers.Linear(2, 3, bias=False, gate="unit"), nn.ReLU(), nn.Linear(3, 1, bias=False))
    x = torch.randn(1, 2)
    price = CostPrice(0.2, reference=Cost(9, 9))(ExpectedCost(net, x), {"0": torch.full((3,), 0.5)})
    torch.testing.assert_close(price["0"], torch.full((3,), 0.2 * (4.5 / 9) ** -0.5 * 3 / 9))


def test_price_hardly_changes_when_all_widths_double() -> None:
    """A cost that goes with the square of the width: biases and the output layer leave 3 % in these networks."""

    def prices(width: int) -> dict[str, Tensor]:
        net = nn.Sequential(
            Gate(width), layers.Linear(width, width, gate="unit"), nn.ReLU(),
            layers.Linear(width, width, gate="unit"), nn.ReLU(), nn.Linear(width, 4),
        )  # fmt: skip
        theta = {name: torch.full((width,), 0.8) for name in ("0", "1", "3")}
        return CostPrice(0.25, reference=Cost(40_000, 40_000))(ExpectedCost(net, torch.randn(1, width)), theta)

    single, double = prices(128), prices(256)
    for name, value in single.items():
        torch.testing.assert_close(double[name][:128], value, rtol=0.03, atol=0)


def test_what_saves_nothing_has_a_least_price() -> None:
    """A gate whose layer is read by nothing that is on saves nothing; its price is positive all the same."""
    net, x = perceptron(), example(perceptron)
    theta = probabilities(net, 1.0)
    theta["4"][:] = torch.tensor([1.0, 0.0])
    theta["2"][0] = 0.0
    price = CostPrice(0.3).relative_to(cost(net, x))(ExpectedCost(net, x), theta)
    assert all(bool((value > 0).all()) for value in price.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nu": 0.0}, "nu must be positive and finite, got 0.0"),
        ({"nu": -1.0}, "nu must be positive and finite, got -1.0"),
        ({"nu": float("inf")}, "nu must be positive and finite, got inf"),
        ({"nu": 1.0, "params": 1.5}, r"params must be in \[0, 1\], got 1.5"),
    ],
)
def test_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CostPrice(**arguments)


@pytest.mark.parametrize("reference", [None, Cost(10, None)])
def test_a_price_needs_a_reference(reference: Cost | None) -> None:
    net, x = perceptron(), example(perceptron)
    with pytest.raises(ConfigError, match="needs a reference with parameters and multiply-adds"):
        CostPrice(0.2, reference=reference)(ExpectedCost(net, x), probabilities(net))


def test_a_reference_stays() -> None:
    first, second = Cost(10, 20), Cost(30, 40)
    assert CostPrice(0.2).relative_to(first).relative_to(second).reference == first


@pytest.mark.parametrize("build", [normalised_conv, branches, nested])
def test_relative_cost_and_its_derivative(build: Callable[[], nn.Module]) -> None:
    """∂2√G/∂θ_s = (∂G/∂θ_s)/√G, and G is linear in θ_s, so that its derivative is a difference."""
    net, x = build(), example(build)
    expected, theta = ExpectedCost(net, x, ("macs",)), probabilities(net)

    def share(name: str, s: int, t: float) -> float:
        moved = {n: v.double() for n, v in theta.items()}
        moved[name] = moved[name].index_fill(0, torch.tensor([s]), t)
        return float(expected(moved)["macs"]) / expected.total["macs"]

    found, gradient = marginal_cost(expected, theta, expected.total, {"macs": 1.0})
    for name, value in theta.items():
        for s, t in enumerate(value.tolist()):
            assert found == pytest.approx(share(name, s, t), rel=1e-9)
            if len(value) == 1 or s:  # the first of several is the last of its layer when the others are off
                slope = (share(name, s, 1.0) - share(name, s, 0.0)) / found**0.5
                assert float(gradient[name][s]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_marginal_cost_of_a_network_without_gates() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = ExpectedCost(net, torch.randn(1, 3))
    assert marginal_cost(expected, {}, {"params": 52, "macs": 40}, {"params": 0.5, "macs": 0.5}) == (0.5, {})


def test_relative_cost_of_nothing_is_finite() -> None:
    net = nn.Sequential(nn.Identity(), layers.Residual(nn.Linear(2, 2)))
    found, gradient = marginal_cost(
        ExpectedCost(net, torch.randn(1, 2)), {"1": torch.zeros(1)}, {"macs": 4.0}, {"macs": 1.0}
    )
    assert 0 <= found < 1e-8 and bool(torch.isfinite(gradient["1"]).all())
