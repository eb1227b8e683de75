"""Estimators from derivatives at the sample: the concrete relaxation and the second order."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import integrate

from bayesprune.infer.derivatives import FLOOR, TEMPERATURE, trapezoid
from bayesprune.infer.estimators import get_estimator
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import (
    NETS,
    Record,
    all_gates,
    enumerated_gradient,
    enumerated_moments,
    estimate,
    probabilities,
    verify_mean,
)

# the concrete relaxation ----------------------------------------------------------------------------------------------


def relaxed(u: float, theta: float) -> float:
    """ξ̃ = sigmoid((logit θ + logit u)/τ)."""
    logit = math.log(theta / (1 - theta)) + math.log(u / (1 - u))
    return 1 / (1 + math.exp(-logit / TEMPERATURE))


def expected_slope(theta: float, on: bool) -> float:
    """E[∂ξ̃/∂θ | ξ]: the mean over the u that round ξ̃ to ξ, its derivative by central differences."""

    def slope(u: float) -> float:
        step = 1e-6 * min(theta, 1 - theta)
        return (relaxed(u, theta + step) - relaxed(u, theta - step)) / (2 * step)

    ends = (1 - theta, 1.0) if on else (0.0, 1 - theta)
    return integrate.quad(slope, *ends, limit=200, epsabs=1e-7)[0] / (theta if on else 1 - theta)


def linear_objective(slopes: torch.Tensor, shared: int) -> Any:
    """C = Σ_s a_s ξ_s for every example: its derivative is a_s, so the estimate is the mean of a_s ∂ξ̃/∂θ_s."""

    def losses(xi: torch.Tensor) -> torch.Tensor:
        return xi @ slopes

    losses.shared, losses.generator = shared, torch.Generator().manual_seed(2)
    return losses


@pytest.mark.statistical
@pytest.mark.parametrize("on", [True, False])
def test_concrete_draws_its_uniform_numbers_given_the_gates(on: bool, record_property: Record) -> None:
    """Against quadrature for gates that are all on, or off; fails by chance at 1e-5 a probability, five of them."""
    thetas = (0.02, 0.2, 0.5, 0.7, 0.97)
    theta = torch.tensor(thetas, dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    xi, price = torch.full((10_000, 5), float(on), dtype=torch.float64), torch.ones(5).double()
    expected = torch.tensor([expected_slope(t, on) for t in thetas], dtype=torch.float64) * slopes + price
    draws = []
    for _ in range(16):
        loss = get_estimator("concrete")(linear_objective(slopes, 0), theta, xi, price)
        assert float(loss.detach()) == pytest.approx(float(slopes.sum()) * on + sum(thetas), abs=1e-4)
        draws.append(torch.autograd.grad(loss, theta)[0])
    spread = torch.stack(draws).std(0) / 16**0.5
    assert bool(((torch.stack(draws).mean(0) - expected).abs() < 6.5 * spread).all())  # Student's t of 15 degrees
    assert bool((spread < 0.02 * (expected - price).abs()).all())
    record_property("E[slope | gate]", ((expected - price) / slopes).tolist())


def test_concrete_draws_one_number_for_a_gate_that_the_batch_shares() -> None:
    theta = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    xi = torch.ones(5, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(
        get_estimator("concrete")(linear_objective(torch.ones(2).double(), 1), theta, xi, torch.zeros(2).double()),
        theta,
    )
    u = 1 - 0.3 * float(torch.rand(1, generator=torch.Generator().manual_seed(2)))  # on: uniform on (1 − θ, 1)
    step = 1e-6
    slope = (relaxed(u, 0.3 + step) - relaxed(u, 0.3 - step)) / (2 * step)
    assert float(gradient[0]) == pytest.approx(slope, rel=1e-5)
    own = torch.autograd.grad(
        get_estimator("concrete")(linear_objective(torch.ones(2).double(), 1), theta, xi, torch.zeros(2).double()),
        theta,
    )[0]
    assert float(own[0]) == pytest.approx(slope, rel=1e-5) and own[1] != gradient[1]


CONCRETE = [
    ("units", 0.5),
    pytest.param("smooth_units", 0.5, marks=pytest.mark.slow),
    pytest.param("branches", 0.9, marks=pytest.mark.slow),
    ("mixed", 0.9),
]


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "bound"), CONCRETE)
def test_concrete_in_the_mean(name: str, bound: float, record_property: Record) -> None:
    """Against the sum over gates of ∂C/∂ξ_s E[∂ξ̃/∂θ_s | ξ_s]; its bias is not 0, and below a stated bound.

    Fails by chance at 6e-5 a gate, seven gates at most.
    """
    case = Case(NETS[name])
    net = case.net
    theta, vectors = net.theta.detach(), all_gates(net.num_gates)
    factors = torch.tensor([[expected_slope(float(t), on) for t in theta] for on in (False, True)], dtype=torch.float64)
    mean = torch.zeros_like(theta)
    for probability, vector in zip(probabilities(theta, vectors), vectors, strict=True):
        derivative = estimate(case, "straight_through", vector[None])[1] - net.price
        mean += probability * derivative * torch.where(vector > 0.5, factors[1], factors[0])
    draws = torch.stack([estimate(case, "concrete", net.sample_gates(case.x))[1] for _ in range(500)])
    verify_mean(draws, mean + net.price, f"concrete, {name}")
    truth = enumerated_gradient(case) - net.price
    relative = (mean - truth) / truth.abs().max()
    record_property("relative bias", relative.tolist())
    record_property("standard deviation of one draw", draws.std(0).tolist())
    assert 1e-2 <= float(relative.abs().max()) <= bound


@pytest.mark.parametrize("thetas", [(0.3, 0.7, 0.5), (FLOOR, 1 - FLOOR, 0.5)])
def test_second_order_is_exact_where_the_loss_is_quadratic_in_each_gate(thetas: tuple[float, ...]) -> None:
    case = Case(nets.linear_units, thetas)
    scale = float((enumerated_gradient(case) - case.net.price).abs().max())
    assert float(enumerated_moments("second_order", case).bias.abs().max()) <= 1e-5 * scale  # the nudge costs 1e-6
    assert float(enumerated_moments("straight_through", case).bias.abs().max()) >= 1e-2 * scale


def test_expected_weights_of_second_order_add_up_to_one_at_every_theta() -> None:
    theta = torch.cat([torch.linspace(0, 1, 1001), torch.tensor([1e-8, 1e-3, FLOOR, 1 - FLOOR])]).double()
    on, off = trapezoid(theta)
    torch.testing.assert_close(theta * on + (1 - theta) * off, torch.ones_like(theta), rtol=1e-14, atol=0)
    assert float(on.max()) <= 0.5 / FLOOR + 1e-9 and float(off.max()) <= 0.5 / FLOOR + 1e-9
    inside = (theta >= FLOOR) & (theta <= 1 - FLOOR)
    torch.testing.assert_close(on[inside], 0.5 / theta[inside])
    torch.testing.assert_close(off[inside], 0.5 / (1 - theta[inside]))
