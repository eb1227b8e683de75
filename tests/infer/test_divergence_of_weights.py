"""The divergence of Normal weights: its value, what it costs a gate and what it asks of a weight."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprune.infer import BatchObjective, BayesianNet
from bayesprune.infer.normal import LEAST_SCALE
from tests.infer.nets import weight_penalty
from tests.infer.slabs import (
    NETS,
    NUM_DATA,
    backward,
    bayesian,
    branches,
    divergence_at,
    inputs,
    presence,
)
from tests.infer.verify import all_gates, probabilities

# the divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_divergence_is_the_sum_over_weights(name: str) -> None:
    """Θ times torch's own divergence, weight by weight; by the vectors that Pyro's site is made of, too."""
    net = bayesian(name, 0.7)
    theta = presence(net).detach()
    means, log_scales = net.weights_posterior.means(), net.weights_posterior.log_scales()
    mean, log_scale = (torch.cat([p.detach().flatten() for p in ps]) for ps in (means, log_scales))
    each = kl_divergence(Normal(mean, log_scale.exp()), Normal(torch.zeros_like(mean), torch.full_like(mean, 0.7)))
    torch.testing.assert_close(divergence_at(net, net.theta).detach(), (theta * each).sum(), rtol=1e-12, atol=0)
    posterior, prior = net.weights_posterior.moments(), net.weights_posterior.prior_scale_vector()
    assert torch.equal(posterior[0], mean) and torch.equal(posterior[1], log_scale.exp())
    torch.testing.assert_close(prior, torch.full_like(mean, 0.7), rtol=1e-15, atol=0)
    point = sum(float(p.detach().square().sum()) for p in net.point_weights().values())
    expected = float((theta * each).sum()) / NUM_DATA + point / (2 * NUM_DATA)
    assert float(weight_penalty(net).detach()) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("slab_scale", [0.7, None])
@pytest.mark.parametrize("name", NETS)
def test_what_a_structure_costs_is_the_slope_of_the_divergence(name: str, slab_scale: float | None) -> None:
    """Of all gates, by the derivative and by differences; the learned scale is at its optimum, so it does not count."""
    net = bayesian(name, slab_scale)
    theta = net.theta.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence_at(net, theta), theta)
    torch.testing.assert_close(net.weights_cost, slope, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net.price, (net.log_gamma + slope) / NUM_DATA, rtol=1e-10, atol=1e-12)
    for s in range(net.num_gates):
        ends = []
        for step in (1e-4, -1e-4):
            moved = net.theta.detach().clone()
            moved[s] += step
            with torch.no_grad():
                ends.append(float(divergence_at(net, moved).detach()))
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(float(slope[s]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("name", ["two layers", "filters and features", "nested", "stream", "readers", "half"])
def test_the_divergence_is_multilinear_so_its_slope_is_known_at_the_ends_too(name: str, end: float) -> None:
    net = bayesian(name, 0.7)
    with torch.no_grad():
        for s in range(net.num_gates):
            theta = net.theta.detach().clone()
            theta[s] = end
            other, between = theta.clone(), theta.clone()
            other[s], between[s] = 1 - end, 0.5
            a, b, c = (float(divergence_at(net, t).detach()) for t in (theta, between, other))
            assert b == pytest.approx((a + c) / 2, rel=1e-12)
    with torch.no_grad():
        net.theta.fill_(end)
    net.refresh()
    assert bool(net.weights_cost.isfinite().all())
    if end == 1.0:
        one = torch.ones(net.num_gates).double()
        for s in range(net.num_gates):
            off = one.clone()
            off[s] = 0
            with torch.no_grad():
                gap = float((divergence_at(net, one) - divergence_at(net, off)).detach())
            assert float(net.weights_cost[s]) == pytest.approx(gap, rel=1e-9, abs=1e-9)


def test_a_share_of_the_divergence_counts_for_gates_and_weights_alike() -> None:
    net = bayesian("branches")
    cost, pulls = net.weights_cost.clone(), [share.clone() for _, share in net.weights_posterior._mean_slopes]
    net.refresh(0.25)
    torch.testing.assert_close(net.weights_cost, 0.25 * cost)
    for (_, share), whole in zip(net.weights_posterior._mean_slopes, pulls, strict=True):
        torch.testing.assert_close(share, 0.25 * whole)


# the learned scale ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_the_learned_scale_is_where_the_divergence_is_least(name: str) -> None:
    net = bayesian(name, None)
    best = [scale.clone() for scale in net.weights_posterior.scales]
    net.weights_posterior.scales = [scale.clone().requires_grad_() for scale in best]
    divergence = divergence_at(net, net.theta.detach())
    slopes = torch.autograd.grad(divergence, net.weights_posterior.scales)
    assert all(abs(float(slope)) < 1e-6 for slope in slopes)
    for layer in range(len(best)):
        for factor in (0.9, 1.1):
            net.weights_posterior.scales = [scale * (factor if i == layer else 1) for i, scale in enumerate(best)]
            assert float(divergence_at(net, net.theta.detach()).detach()) > float(divergence.detach())


def test_a_layer_that_is_off_as_a_whole_keeps_the_scale_of_its_weights() -> None:
    """As the branch goes, its weights count alike and ever less: their mean square does not move, nor jump at 0."""
    scales, costs = [], []
    net = bayesian("branches", None)
    names = net.gate_names
    for theta in (1.0, 1e-3, 1e-9, 0.0):
        with torch.no_grad():
            net.theta[names.index("3")] = theta
        net.refresh()
        scales.append(float(net.weights_posterior.scales[-2]))
        costs.append(float(net.weights_cost[names.index("3")]))
    assert scales == pytest.approx([scales[0]] * 4, rel=1e-6) and scales[0] > 0.1
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-6)


def test_the_least_scale() -> None:
    net = bayesian("dense", None)
    with torch.no_grad():
        for mean, log_scale in zip(net.weights_posterior.means(), net.weights_posterior.log_scales(), strict=True):
            mean.zero_()
            log_scale.fill_(-100.0)
    net.refresh()
    assert [float(scale) for scale in net.weights_posterior.scales] == pytest.approx([LEAST_SCALE] * 2)


# pulls ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slab_scale", [0.7, None])
@pytest.mark.parametrize("name", NETS)
def test_pulls_add_up_to_the_slope_of_the_divergence(name: str, slab_scale: float | None) -> None:
    """In the mean over which branches are on, and so which weights are computed. What is not used is not pulled."""
    net, x = bayesian(name, slab_scale), inputs(name)
    parameters = [*net.weights_posterior.means(), *net.weights_posterior.log_scales()]
    slopes = torch.autograd.grad(divergence_at(net, net.theta.detach()) / NUM_DATA, parameters)
    theta = net.theta.detach()
    vectors = all_gates(net.num_branches)
    found = [torch.zeros_like(p) for p in parameters]
    for xi, weight in zip(vectors, probabilities(theta[: net.num_branches], vectors), strict=True):
        backward(net, x, torch.cat([xi, torch.ones(net.num_gates - len(xi)).double()])[None])
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        net.add_gradients()
        for total, p, grad in zip(found, parameters, before, strict=True):
            assert (p.grad is None) == (grad is None)
            if grad is not None:
                total.add_(p.grad - grad, alpha=float(weight))
    idle = {id(p) for name, p in net.net.named_parameters() if "idle" in name}
    for parameter, pulled, slope in zip(parameters, found, slopes, strict=True):
        expected = torch.zeros_like(slope) if id(parameter) in idle else slope
        torch.testing.assert_close(pulled, expected, rtol=1e-9, atol=1e-12)


def test_a_point_network_is_not_pulled() -> None:
    net = BayesianNet(branches(), "gaussian", num_data=NUM_DATA).double()
    backward(net, inputs("branches"), torch.ones(1, net.num_gates).double())
    before = {name: p.grad.clone() for name, p in net.weights().items()}
    net.add_gradients()
    assert all(torch.equal(p.grad, before[name]) for name, p in net.weights().items())
    assert net.weights_posterior.name == "point" and torch.equal(net.price, net.log_gamma / NUM_DATA)


class Forbidden(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket not in (
            torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero,
            torch.ops.aten.equal, torch.ops.aten._to_copy, torch.ops.aten.masked_select,
        ), function  # fmt: skip
        return function(*args, **(kwargs or {}))


def test_a_step_reads_no_number_back() -> None:
    """What a step with Normal weights does of its own, but for refreshing the shares, which is now and then."""
    net, x = bayesian("dense"), inputs("dense")
    net.train()
    y, xi = torch.zeros(len(x), 2).double(), torch.ones(1, net.num_gates).double()
    for learn in (True, False, False, True):
        for p in net.trained().values():
            p.grad = None
        with Forbidden():
            net.weights_posterior.cache_variances(learn)
            loss = BatchObjective(net, x, y, on=[])(xi, skip=True).mean()
            loss.backward()
            net.add_gradients()
        assert (net.weights_posterior.log_scales()[0].grad is not None) == learn
    with pytest.raises(AssertionError), Forbidden():
        float(loss)
