"""Every estimator against enumeration of all 2^S gate vectors, S ≤ 10."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from scipy import integrate

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.infer.derivatives import FLOOR, TEMPERATURE, trapezoid
from bayesprune.infer.estimators import ESTIMATORS, get_estimator
from bayesprune.optim import ProjectedGateSGD
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import (
    all_gates,
    enumerated_gradient,
    enumerated_moments,
    estimate,
    probabilities,
    verify_estimator,
    verify_mean,
)

Record = Callable[[str, object], None]
NETS = {
    name: getattr(nets, name) for name in ("units", "smooth_units", "branches", "mixed", "shared_units", "linear_units")
}
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


# the ends of [0, 1] ---------------------------------------------------------------------------------------------------


ENDS = [
    pytest.param(name, estimator, marks=[pytest.mark.slow] if (name, estimator) == ("branches", "disarm") else [])
    for name in ("smooth_units", "units", "branches")
    for estimator in ESTIMATORS
]


@pytest.mark.parametrize(("name", "estimator"), ENDS)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_an_estimate_exists_at_the_ends(name: str, estimator: str, end: float) -> None:
    """What the data say is seen there for every gate of which they say something: the boundary does not absorb."""
    disarm = estimator == "disarm"  # looks at each gate once in a thousand rows
    case = Case(NETS[name], (end,), rows=4000 if disarm else nets.ROWS)
    seen = torch.zeros(case.net.num_gates, dtype=torch.bool)
    for _ in range({"paired": 60, "auto": 60, "disarm": 600 if name == "branches" else 4}.get(estimator, 1)):
        _, gradient = estimate(case, estimator, case.net.sample_gates(case.x))
        assert bool(gradient.isfinite().all())
        seen |= (gradient - case.net.price).abs() > 1e-9
    if name == "branches" and disarm:
        assert bool(seen.any())
    else:
        telling = (enumerated_gradient(case) - case.net.price).abs() > 1e-9
        assert bool(telling.any()) and bool(seen[telling].all())


@pytest.mark.parametrize("estimator", ["paired", "auto"])
def test_a_branch_at_zero_comes_back_if_the_data_want_it_and_stays_if_not(estimator: str) -> None:
    case = Case(nets.branches, (0.0,))
    wanted = int((enumerated_gradient(case) - case.net.price).argmin())
    with torch.no_grad():
        for s, block in enumerate(list(case.net.net)[1:-1]):
            for weight in block.body.parameters():
                weight.mul_(s == wanted)  # of the other branches the data say nothing
    price = -float((enumerated_gradient(case) - case.net.price)[wanted]) / 2
    assert price > 0
    case.net.log_gamma.fill_(price * case.net.num_data)
    optimizer = ProjectedGateSGD([case.net.theta], lr=0.05 / price)
    others = torch.arange(case.net.num_gates) != wanted
    for _ in range(60):
        optimizer.zero_grad()
        get_estimator(estimator)(
            case.objective, case.net.theta, case.net.sample_gates(case.x), case.net.price
        ).backward()
        optimizer.step()
        assert not case.net.theta[others].any()  # not for one step
    assert case.net.theta[wanted] == 1


@pytest.mark.parametrize("estimator", ["straight_through", "second_order"])
def test_a_gate_before_a_relu_has_a_derivative_at_zero(estimator: str) -> None:
    """relu'(0) is 0 in torch, but the derivative from the right of relu(ξ a) at ξ = 0 is max(a, 0)."""
    case = Case(nets.units)
    case.set_theta([1, 1, 1, 0, 0, 0, 0])
    _, gradient = estimate(case, estimator, case.net.sample_gates(case.x))
    hidden = case.net.net[1]
    a = torch.nn.functional.linear(case.x, hidden.weight, hidden.bias).relu()
    off = case.net.net[3].bias.expand(nets.ROWS, -1)
    d_loss = (off.softmax(1) - torch.nn.functional.one_hot(case.y, 3)) / nets.ROWS
    expected = (a * (d_loss @ case.net.net[3].weight)).sum(0)
    assert bool((expected != 0).any())
    torch.testing.assert_close((gradient - case.net.price)[3:], expected, rtol=1e-4, atol=1e-7)


# scale ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_scale_does_not_depend_on_batch_size(estimator: str, name: str) -> None:
    """The same examples three times over, with the same gates, give the same gradient."""
    case, tripled = Case(NETS[name]), Case(NETS[name])
    tripled.x, tripled.y = case.x.repeat(3, 1), case.y.repeat(3)
    xi = case.net.sample_gates(case.x)
    pyro.set_rng_seed(3)
    value, gradient = estimate(case, estimator, xi)
    if estimator in ("concrete", "disarm") and len(xi) > 1:
        pytest.skip("draws further random numbers for every row")
    pyro.set_rng_seed(3)
    value3, gradient3 = estimate(tripled, estimator, xi.repeat(3, 1) if len(xi) > 1 else xi)
    assert value3 == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(gradient3, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["exact", "straight_through", "second_order", "disarm"])
@pytest.mark.parametrize("name", ["units", "branches"])
def test_num_data_enters_through_the_price_alone(estimator: str, name: str) -> None:
    few, many = Case(NETS[name], num_data=50), Case(NETS[name], num_data=5000)
    xi = few.net.sample_gates(few.x)
    gradients = []
    for case in (few, many):
        pyro.set_rng_seed(3)
        gradients.append(estimate(case, estimator, xi)[1])
    expected = few.net.log_gamma * (1 / 50 - 1 / 5000)
    torch.testing.assert_close(gradients[0] - gradients[1], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["auto", "exact", "paired", "second_order", "straight_through"])
@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_two_accumulated_halves_are_one_batch(estimator: str, name: str) -> None:
    case, half = Case(NETS[name]), Case(NETS[name])
    xi = case.net.sample_gates(case.x)
    parts = []
    for rows in (slice(0, 3), slice(3, 6)):
        half.x, half.y = case.x[rows], case.y[rows]
        pyro.set_rng_seed(3)
        parts.append(estimate(half, estimator, xi[rows] if len(xi) > 1 else xi))
    pyro.set_rng_seed(3)
    value, gradient = estimate(case, estimator, xi)
    assert (parts[0][0] + parts[1][0]) / 2 == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close((parts[0][1] + parts[1][1]) / 2, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "exact"])
@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_weights_get_the_plain_gradient_at_the_sample(estimator: str, name: str) -> None:
    case = Case(NETS[name])
    xi = case.net.sample_gates(case.x)
    weights = list(case.net.weights().values())
    loss = get_estimator(estimator)(case.objective, case.net.theta, xi, case.net.price)
    actual = torch.autograd.grad(loss, weights, materialize_grads=True)
    expected = torch.autograd.grad(case.mean_loss(xi), weights)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)  # derivatives are taken at 2^-20 for 0


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
