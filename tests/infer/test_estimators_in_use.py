"""Estimators at the ends of [0, 1], and the scale of what they give."""

from __future__ import annotations

import pyro
import pytest
import torch

from bayesprune.infer.estimators import ESTIMATORS, get_estimator
from bayesprune.optim.projected import ProjectedGateSGD
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import (
    NETS,
    enumerated_gradient,
    estimate,
)

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
