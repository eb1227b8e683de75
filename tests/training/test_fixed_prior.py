"""Training under a fixed prior: where gates end, and the slope of the whole objective."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.distributions.gate_prior import EDGE
from bayesprune.infer import BayesianNet
from bayesprune.infer.likelihoods import Gaussian
from bayesprune.layers import Gate
from bayesprune.methods.svi.gates import GateUpdates
from bayesprune.methods.svi.sampled import NOISE_SHARE
from bayesprune.pruning import compact
from bayesprune.training import Settings, evaluate, fit
from tests.training.problems import EXAMPLES, Batches, examples, units


@pytest.mark.seed(0)
@pytest.mark.parametrize("prior", [FlatteningPrior(2.0), FixedInclusion(0.1)])
def test_inputs_that_say_nothing_go(prior: FlatteningPrior | FixedInclusion) -> None:
    torch.manual_seed(2)
    net = BayesianNet(units(), num_data=EXAMPLES, prior=prior, slab="normal")
    loader = Batches(*examples())
    history = fit(net, loader, epochs=20, settings=Settings(lr=0.02, every=2))
    kept = net.gate_probs()["0"]
    ends = history.thetas["0"][-1]
    assert bool((ends[:3] > 0.99).all()) and bool((ends[3:] < 0.5).all())
    assert len(kept) < 8 or isinstance(prior, FixedInclusion)
    assert evaluate(net, loader).accuracy > 0.93
    x, _ = examples()
    torch.testing.assert_close(compact(net.eval())(x), net.net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("log_gamma", [-29.0, -31.0, -33.0])
def test_settling_ends_at_the_optimum_under_a_fixed_prior(log_gamma: float) -> None:
    """One input of one weight that does not move: θ* = sigmoid(−log γ − D − N ΔC), each term by its definition."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 1, generator=generator)
    y = 0.25 * x + torch.randn(60, 1, generator=generator)
    net = BayesianNet(
        nn.Sequential(Gate(1), nn.Linear(1, 1)), Gaussian(1.0), num_data=60, prior=FixedInclusion(log_gamma=log_gamma),
        slab="normal", slab_scale=1.0,
    )  # fmt: skip
    weight, bias = net.net[1].weight, net.net[1].bias
    with torch.no_grad():
        weight.fill_(0.3)
        bias.fill_(0.1)
        for log_scale in net.weights_posterior.log_scales():
            log_scale.fill_(-30.0)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=[list(range(60))] * 20)
    how = {"sample_from": 0.0, "settle_from": 0.0, "fine_tune_from": 1.0, "travel": 8.0, "slab_by": 1e-9}
    net.net.requires_grad_(False)
    fit(net, loader, epochs=2, prune=False, settings=Settings(schedule=how))
    divergence = kl_divergence(Normal(0.3, math.exp(-30.0)), Normal(0.0, 1.0)).item()
    difference = 0.5 * ((y - 0.1 - 0.3 * x).square() - (y - 0.1).square()).sum().item()
    expected = 1 / (1 + math.exp(log_gamma + divergence + difference))
    assert 0.01 < expected < 0.99
    assert net.theta.item() == pytest.approx(expected, abs=1e-3)
    assert torch.equal(weight, torch.full((1, 1), 0.3))


def test_no_input_is_taken_for_certain_where_none_tells_anything() -> None:
    """Under a fixed prior of 0.1: not even the best of the layer's, and the network of its mode is a constant."""
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(200, 5, generator=generator), torch.randn(200, 1, generator=generator)
    net = BayesianNet(
        nn.Sequential(Gate(5), nn.Linear(5, 1)), Gaussian(1.0), num_data=200, prior=FixedInclusion(0.1), slab="normal",
        slab_scale=1.0,
    )  # fmt: skip
    fit(net, Batches(x, y), epochs=20, settings=Settings(lr=0.05, every=1))
    assert net.num_gates == 5 and float(net.theta.detach().max()) < 0.1
    assert float(compact(net.eval())(x).detach().std()) < 1e-6


def fixed(log_gamma: float | Tensor, theta: float = 0.5, slab: str = "point") -> tuple[BayesianNet, GateUpdates]:
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FixedInclusion(log_gamma=log_gamma), slab=slab)
    with torch.no_grad():
        net.theta.fill_(theta)
    net.refresh()
    return net, GateUpdates(net)


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_an_evaluation_under_a_fixed_prior(slab: str) -> None:
    """θ moves to the optimum, by ``size`` at most; there ∂L/∂θ is 0; beyond 1e-6 it is 0 or 1 itself."""
    net, moves = fixed(torch.linspace(-30.0, 30.0, 14), slab=slab)
    nats = torch.linspace(1.0, -1.0, 14)
    best = torch.sigmoid(-nats - net.log_gamma - net.weights_cost)
    for size in (0.02, 1.0):
        moves.exact.total += nats / EXAMPLES
        moves.exact.count += 1
        before = net.theta.detach().clone()
        moves.exact.step(size)
        snapped = torch.where(best < EDGE, 0.0, torch.where(best > 1 - EDGE, 1.0, best))
        expected = before + (snapped - before).clamp(-size, size)
        torch.testing.assert_close(net.theta.detach(), expected, rtol=1e-5, atol=1e-6)
    inside = (best > 1e-4) & (best < 1 - 1e-4)
    assert bool(inside.any()) and float((moves.net_cost[inside] * EXAMPLES).abs().max()) < 1e-2
    assert bool((moves.net_cost[best < EDGE] > 0).all()) and bool((moves.net_cost[best > 1 - EDGE] < 0).all())


@pytest.mark.parametrize("theta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("log_gamma", [-200.0, -0.3, 0.0, 1e-3, 4.0])
def test_a_sampled_step_under_a_fixed_prior(log_gamma: float, theta: float) -> None:
    """By price and entropy, in units of |ρ| or 1/N: finite where the prior is ½ and the data say nothing."""
    net, moves = fixed(log_gamma, theta)
    net.theta.grad = net.price.clone()
    moves.sampled.step(0.01)
    slope = log_gamma + math.log(max(theta, EDGE) / max(1 - theta, EDGE))
    expected = min(1.0, max(0.0, theta - 0.01 * slope / max(abs(log_gamma), 1.0)))
    torch.testing.assert_close(net.theta.detach(), torch.full((14,), expected), rtol=0, atol=2e-4)
    net.theta.grad = net.price + torch.linspace(-1, 1, 14)
    before = net.theta.detach().clone()
    moves.sampled.step(0.01)
    assert float((net.theta.detach() - before).abs().max()) < 0.015 / NOISE_SHARE  # noise of one step in two


def test_look_under_a_fixed_prior_is_the_slope_of_all_of_the_objective() -> None:
    net, moves = fixed(2.0, 0.2)
    net.theta.grad = torch.linspace(-1, 1, 14)
    moves.sampled.step(0.0)
    moves.sampled.update_net_cost()
    torch.testing.assert_close(moves.net_cost, torch.linspace(-1, 1, 14) + math.log(0.2 / 0.8) / EXAMPLES)
