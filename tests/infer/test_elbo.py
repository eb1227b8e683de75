"""The ELBO: against Pyro's own on the same samples, against the closed form, and its scale."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import bernoulli_kl
from bayesprune.errors import ConfigError
from bayesprune.infer import GateELBO, get_estimator
from tests.infer import nets
from tests.infer.nets import Case, weight_penalty
from tests.infer.verify import all_gates, probabilities, verify_mean

NETS = {name: getattr(nets, name) for name in ("units", "branches", "mixed", "linear_units")}


DRAWS = 700


def three_units() -> nn.Module:
    return nn.Sequential(layers.Linear(3, 3, gate="unit"), nn.Tanh(), nn.Linear(3, 2))


def closed_form(case: Case) -> tuple[Tensor, Tensor]:
    """E[C] by enumeration, and the KL's share of the loss from its definition, with π at its optimum."""
    net, theta = case.net, case.net.theta.detach()
    vectors = all_gates(net.num_gates)
    weights = probabilities(theta, vectors)
    with torch.no_grad():
        data = sum(w * case.mean_loss(v) for w, v in zip(weights, vectors, strict=True))
        pi = net.prior().optimal(theta)
        kl = (bernoulli_kl(theta, pi) - net.prior().log_prob(pi)).sum() / net.num_data
        squares = sum(p.square().sum() for p in net.weights().values())
    return data, kl + net.weight_precision / (2 * net.num_data) * squares


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("estimator", ["auto", "second_order", "straight_through", "paired", "disarm"])
def test_differs_from_trace_elbo_by_the_fluctuation_of_the_price_alone(name: str, estimator: str) -> None:
    case = Case(NETS[name])
    net, x, y = case.net, case.x, case.y
    theta = net.theta.detach()
    for seed in range(3):
        pyro.set_rng_seed(seed)
        xi = poutine.trace(net.guide).get_trace(x, y).nodes["gates"]["value"]
        pyro.set_rng_seed(seed)
        ours = GateELBO(estimator).loss(net.model, net.guide, x, y)
        pyro.set_rng_seed(seed)
        pyros = Trace_ELBO().loss(net.model, net.guide, x, y)
        fluctuation = float(((xi.mean(0) - theta) * net.price).sum())
        assert pyros - ours == pytest.approx(fluctuation, abs=1e-5 * abs(pyros))
        assert abs(fluctuation) > 1e-4 * abs(pyros)  # or the line above would say little


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("thetas", [(0.3, 0.7, 0.5), (0.0, 1.0, 0.4)])
def test_exact_value_is_the_closed_form(name: str, thetas: tuple[float, ...]) -> None:
    case = Case(NETS[name], thetas)
    data, kl = closed_form(case)
    loss = GateELBO("exact").loss(case.net.model, case.net.guide, case.x, case.y)
    assert loss == pytest.approx(float(data + kl), rel=1e-7)  # the slab is summed in float32


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["units", "branches"])
def test_both_elbos_have_the_closed_form_as_their_mean(name: str) -> None:
    """Fails by chance at 6e-5 a comparison."""
    case = Case(NETS[name])
    expected = sum(closed_form(case))
    for elbo in (GateELBO("second_order"), Trace_ELBO()):
        losses = [elbo.loss(case.net.model, case.net.guide, case.x, case.y) for _ in range(150)]
        verify_mean(torch.tensor(losses).double()[:, None], expected[None], type(elbo).__name__)


@pytest.mark.statistical
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_trace_elbos_gradient_of_theta_is_unbiased(rows: int) -> None:
    """Pyro's score function against enumeration; fails by chance at 6e-5 a gate, three gates."""
    case = Case(three_units, (0.8, 0.2, 0.8), rows=rows, likelihood="gaussian")
    net = case.net
    with torch.no_grad():
        for p in net.weights().values():
            p.mul_(8)
    usual = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    case.y = net(case.x, usual).detach()  # losses near 0 most of the time: little noise
    args = (net.model, net.guide, case.x, case.y)
    (truth,) = torch.autograd.grad(GateELBO("exact").differentiable_loss(*args), net.theta)
    pyro.set_rng_seed(11)
    draws = [torch.autograd.grad(Trace_ELBO().differentiable_loss(*args), net.theta)[0] for _ in range(DRAWS)]
    samples = torch.stack(draws)
    verify_mean(samples, truth, f"{rows} rows")
    error = samples.std(0) / DRAWS**0.5
    assert bool((truth.abs() > 5 * error).any())  # or a part of the score could go unseen


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("estimator", ["auto", "second_order", "straight_through", "paired", "disarm", "exact"])
def test_the_fast_path_is_the_same_loss_with_the_same_gradients(name: str, estimator: str) -> None:
    case = Case(NETS[name])
    net = case.net
    pyro.set_rng_seed(7)
    ours = GateELBO(estimator).differentiable_loss(net.model, net.guide, case.x, case.y)
    parameters = [net.theta, *net.weights().values()]
    expected = torch.autograd.grad(ours, parameters, materialize_grads=True)
    pyro.set_rng_seed(7)
    xi = net.sample_gates(case.x)
    fast = get_estimator(estimator)(case.objective, net.theta, xi, net.price) + weight_penalty(net)
    fast = fast - net.prior().log_normalizer.sum() / net.num_data
    assert float(fast.detach()) == pytest.approx(float(ours.detach()), rel=1e-5)
    for actual, wanted in zip(torch.autograd.grad(fast, parameters, materialize_grads=True), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_twice_the_data_halves_the_share_of_the_kl(name: str) -> None:
    once, twice = Case(NETS[name], num_data=50), Case(NETS[name], num_data=100)
    twice.x, twice.y = once.x.repeat(2, 1), once.y.repeat(2, *[1] * (once.y.dim() - 1))
    data, share = closed_form(once)
    shares = []
    for case in (once, twice):
        pyro.clear_param_store()
        shares.append(GateELBO("exact").loss(case.net.model, case.net.guide, case.x, case.y) - float(data))
    assert shares == pytest.approx([float(share), float(share) / 2], rel=1e-6)


@pytest.mark.parametrize("name", [pytest.param("units", marks=pytest.mark.slow), "branches"])
def test_batch_size_leaves_the_expected_loss_unchanged(name: str) -> None:
    case = Case(NETS[name])
    whole = GateELBO("exact").loss(case.net.model, case.net.guide, case.x, case.y)
    for size in (1, 2, 3):
        parts = [
            GateELBO("exact").loss(case.net.model, case.net.guide, x, y)
            for x, y in zip(case.x.split(size), case.y.split(size), strict=True)
        ]
        assert sum(parts) / len(parts) == pytest.approx(whole, rel=1e-9)


@pytest.mark.statistical
def test_batch_size_leaves_the_expected_loss_unchanged_for_a_draw_an_example() -> None:
    """Fails by chance at 6e-5 a batch size."""
    case = Case(nets.units)
    expected = sum(closed_form(case))
    for size in (1, 3):
        means = [
            sum(GateELBO("second_order").loss(case.net.model, case.net.guide, x, y) for x, y in batches) / len(batches)
            for batches in [list(zip(case.x.split(size), case.y.split(size), strict=True))] * 40
        ]
        verify_mean(torch.tensor(means).double()[:, None], expected[None], f"batches of {size}")


def test_particles_are_averaged() -> None:
    case = Case(nets.units)
    args = (case.net.model, case.net.guide, case.x, case.y)
    pyro.set_rng_seed(1)
    singles, gradients = [], []
    for _ in range(3):
        loss = GateELBO("second_order").differentiable_loss(*args)
        singles.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, case.net.theta)[0])
    pyro.set_rng_seed(1)
    loss = GateELBO("second_order", num_particles=3).differentiable_loss(*args)
    assert float(loss.detach()) == pytest.approx(sum(singles) / 3, rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, case.net.theta)[0], sum(gradients) / 3)


def test_loss_and_grads_accumulates_what_the_loss_says() -> None:
    case = Case(nets.units)
    args = (case.net.model, case.net.guide, case.x, case.y)
    pyro.set_rng_seed(1)
    loss = GateELBO().differentiable_loss(*args)
    (gradient,) = torch.autograd.grad(loss, case.net.theta)
    for times in (1, 2):
        pyro.set_rng_seed(1)
        assert GateELBO().loss_and_grads(*args) == pytest.approx(float(loss.detach()), rel=1e-12)
        torch.testing.assert_close(case.net.theta.grad, times * gradient)


def test_loss_leaves_no_gradient() -> None:
    case = Case(nets.branches)
    GateELBO().loss(case.net.model, case.net.guide, case.x, case.y)
    assert case.net.theta.grad is None and all(p.grad is None for p in case.net.weights().values())


@pytest.mark.parametrize("model", [lambda x, y: None, nn.Linear(3, 1)])
def test_a_model_that_is_not_a_bayesian_nets_is_refused(model: object) -> None:
    case = Case(nets.units)
    with pytest.raises(ConfigError, match=r"pass bnn\.model and bnn\.guide, or use pyro\.infer\.Trace_ELBO"):
        GateELBO().loss(model, case.net.guide, case.x, case.y)


def test_an_unknown_estimator_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="unknown estimator 'reinforce'"):
        GateELBO("reinforce")
