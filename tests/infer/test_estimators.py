"""Every estimator against enumeration of all 2^S gate vectors, S ≤ 10."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import torch

from bayesprune.errors import ConfigError
from bayesprune.infer import ESTIMATORS, BatchObjective, get_estimator
from bayesprune.infer.estimators import FLOOR, _trapezoid
from bayesprune.optim import ProjectedGateSGD
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import (
    all_gates,
    enumerated_gradient,
    enumerated_moments,
    estimate,
    verify_estimator,
)

Record = Callable[[str, object], None]
NETS = {name: getattr(nets, name) for name in ("units", "smooth_units", "branches", "mixed", "linear_units")}
EDGES = (0.0, 1.0, 0.5, 0.04, 0.9)

UNBIASED = [
    ("paired", "units", (0.3, 0.7, 0.5)),
    ("paired", "branches", EDGES),
    ("paired", "mixed", EDGES),
    ("disarm", "units", (0.3, 0.7, 0.5)),
    ("disarm", "branches", (0.2, 0.9, 0.5)),
    ("disarm", "mixed", (0.2, 0.9, 0.5)),
    ("auto", "branches", EDGES),
]


@pytest.mark.statistical
@pytest.mark.parametrize(("estimator", "name", "thetas"), UNBIASED)
def test_unbiased(estimator: str, name: str, thetas: tuple[float, ...], record_property: Record) -> None:
    """Fails by chance at 6e-5 a gate, at most ten gates."""
    case = Case(NETS[name], thetas)
    moments = verify_estimator(estimator, case, draws=1000)
    record_property("standard deviation of one estimate", moments.deviation.tolist())


@pytest.mark.statistical
def test_auto_is_unbiased_on_branches_and_second_order_on_units(record_property: Record) -> None:
    case = Case(nets.mixed)
    moments = verify_estimator("auto", case, draws=1000, unbiased=slice(0, case.net.num_shared))
    record_property("bias on units", moments.bias[case.net.num_shared :].tolist())
    exact = enumerated_moments("second_order", case).bias[case.net.num_shared :]
    noise = moments.deviation[case.net.num_shared :] / 1000**0.5
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
    ("straight_through", "mixed", 0.5),
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


@pytest.mark.parametrize("thetas", [(0.3, 0.7, 0.5), (FLOOR, 1 - FLOOR, 0.5)])
def test_second_order_is_exact_where_the_loss_is_quadratic_in_each_gate(thetas: tuple[float, ...]) -> None:
    case = Case(nets.linear_units, thetas)
    scale = float((enumerated_gradient(case) - case.net.price).abs().max())
    assert float(enumerated_moments("second_order", case).bias.abs().max()) <= 1e-5 * scale  # the nudge costs 1e-6
    assert float(enumerated_moments("straight_through", case).bias.abs().max()) >= 1e-2 * scale


def test_expected_weights_of_second_order_add_up_to_one_at_every_theta() -> None:
    theta = torch.cat([torch.linspace(0, 1, 1001), torch.tensor([1e-8, 1e-3, FLOOR, 1 - FLOOR])]).double()
    on, off = _trapezoid(theta)
    torch.testing.assert_close(theta * on + (1 - theta) * off, torch.ones_like(theta), rtol=1e-14, atol=0)
    assert float(on.max()) <= 0.5 / FLOOR + 1e-9 and float(off.max()) <= 0.5 / FLOOR + 1e-9
    inside = (theta >= FLOOR) & (theta <= 1 - FLOOR)
    torch.testing.assert_close(on[inside], 0.5 / theta[inside])
    torch.testing.assert_close(off[inside], 0.5 / (1 - theta[inside]))


# the ends of [0, 1] ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_an_estimate_exists_at_the_ends(estimator: str, name: str, end: float) -> None:
    """Every gate is looked at there, beyond its price: the boundary does not absorb."""
    case = Case(NETS[name], (end,))
    seen = torch.zeros(case.net.num_gates, dtype=torch.bool)
    draws = {"paired": 80, "auto": 80, "disarm": 800}.get(estimator, 1)
    if end == 0 and estimator in ("straight_through", "second_order") and name == "mixed":
        pytest.skip("units inside a branch that is off have no derivative")
    for _ in range(draws):
        _, gradient = estimate(case, estimator, case.net.sample_gates(case.x))
        assert bool(gradient.isfinite().all())
        seen |= (gradient - case.net.price).abs() > 1e-9
    assert bool(seen.any()) if name == "mixed" else bool(seen.all())


@pytest.mark.parametrize("estimator", ["paired", "auto"])
def test_a_branch_at_zero_comes_back_if_the_data_want_it_and_stays_if_not(estimator: str) -> None:
    case = Case(nets.branches, (0.0,))
    differences = enumerated_gradient(case) - case.net.price
    wanted = int(differences.argmin())
    assert differences[wanted] < 0
    price = -differences[wanted] / 2
    case.net.log_gamma.fill_(float(price) * case.net.num_data)
    unwanted = enumerated_gradient(case) > 0
    assert 0 < int(unwanted.sum()) < len(unwanted)
    lone = unwanted.clone()
    optimizer = ProjectedGateSGD([case.net.theta], lr=0.02 / float(price))
    for _ in range(60):
        loss = get_estimator(estimator)(
            case.objective, case.net.theta, case.net.sample_gates(case.x), case.net.price
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lone &= enumerated_gradient(case) > 0
        assert not case.net.theta[lone].any()  # not even for one step
    assert float(case.net.theta[wanted]) > 0.2


def test_a_gate_before_a_relu_has_a_derivative_at_zero() -> None:
    """relu'(0) is 0 in torch, but switching the gate on would change the loss."""
    case = Case(nets.units, (0.0,))
    case.set_theta([1, 1, 1, 0, 0, 0, 0])
    _, gradient = estimate(case, "straight_through", case.net.sample_gates(case.x))
    pre = case.net.net[1](case.x) if False else torch.nn.functional.linear(case.x, case.net.net[1].weight, case.net.net[1].bias)
    assert bool(((gradient - case.net.price)[3:] != 0)[(pre > 0).any(0)].all())
