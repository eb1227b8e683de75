"""Networks with Normal weights: Pyro's sites and losses, and further passes of one draw."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import bayesprune as bp
from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.infer import (
    BatchObjective,
    BayesianNet,
    GateELBO,
    get_estimator,
    paired_differences,
    shared_differences,
)
from bayesprune.infer.weights import WeightDraws
from bayesprune.layers import Residual
from tests.infer import nets
from tests.infer.verify import STANDARD_ERRORS

NUM_DATA = 50
PRIORS = {"flattening": FlatteningPrior(torch.tensor(3.0)), "fixed": FixedInclusion(0.2)}


def bayesian(build, prior: str = "flattening", **options: object) -> BayesianNet:
    torch.manual_seed(4)
    net = BayesianNet(
        build(), num_data=NUM_DATA, prior=PRIORS[prior], weight_precision=0.1, slab="normal", **options  # type: ignore[arg-type]
    ).double()  # fmt: skip
    with torch.no_grad():
        net.theta.copy_(torch.linspace(0.2, 0.9, net.num_gates))
        for log_scale in net.weights_posterior.log_scales():
            log_scale.add_(0.5 * torch.randn_like(log_scale))
    net.refresh()
    return net


def batch(rows: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, dtype=torch.float64), torch.arange(rows) % 3


def sites(model: object, *args: object) -> list[str]:
    trace = poutine.trace(model).get_trace(*args)
    return [name for name, site in trace.nodes.items() if site["type"] == "sample"]


# sites ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("depth", [2, 20])
def test_one_site_for_all_weights_however_deep(depth: int, prior: str) -> None:
    net = BayesianNet(
        bp.networks.resmlp((3,), 3, depth=depth, width=4), num_data=10, prior=PRIORS[prior], slab="normal"
    )
    x, y = torch.randn(5, 3), torch.arange(5) % 3
    inclusion = ["inclusion"] if prior == "flattening" else []
    assert sites(net.model, x, y) == [*inclusion, "gates", "slab", "weights", "data", "obs"]
    assert sites(net.guide, x, y) == [*inclusion, "gates", "weights"]
    assert net.num_gates == depth


@pytest.mark.parametrize("name", ["units", "mixed"])
def test_weights_are_a_site_like_any_other(name: str) -> None:
    """Predictive gives them, condition takes them, and the network computes with them."""
    net, (x, y) = bayesian(getattr(nets, name)), batch()
    count = sum(p.numel() for p in net.weights_posterior.means())
    drawn = Predictive(net.guide, num_samples=4)(x)["weights"]
    assert drawn.shape == (4, count) and len(drawn.unique()) == 4 * count
    xi = (torch.arange(net.num_gates) % 2).double()
    conditioned = poutine.condition(net.model, data={"gates": xi, "weights": drawn[0]})
    with net.weights_posterior.drawn(drawn[0]):
        expected = net(x, xi)
    torch.testing.assert_close(conditioned(x, y), expected)
    assert Predictive(net.model, guide=net.guide, num_samples=3)(x)["obs"].shape == (3, 6)


def test_a_site_of_weights() -> None:
    mean, scale, presence = torch.tensor([0.5, -2.0]), torch.tensor([0.1, 3.0]), torch.tensor([0.25, 1.0])
    law = WeightDraws(mean, scale, presence)
    value = torch.tensor([0.4, 1.0])
    each = Normal(mean, scale).log_prob(value)
    torch.testing.assert_close(law.log_prob(value), 0.25 * each[0] + each[1])
    assert law.batch_shape == () and law.event_shape == (2,) and law.expand(()) is law
    assert torch.equal(law.mean, mean) and torch.equal(law.variance, scale.square())
    draws = law.rsample((20_000,))
    assert bool(((draws.mean(0) - mean).abs() < 5 * scale / 20_000**0.5).all())
    assert bool(((draws.var(0) / scale.square() - 1).abs() < 5 * 0.01).all())
    with pytest.raises(NotImplementedError, match="do not put the weights inside a plate"):
        law.expand((3,))


# losses ---------------------------------------------------------------------------------------------------------------


def parts(net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor, w: Tensor) -> dict[str, Tensor]:
    """The terms of Pyro's loss at these gates and weights, from their definitions; nats per example."""
    theta = net.theta.detach()
    fixed = isinstance(net.prior(), FixedInclusion)
    pi = net.prior().probs if fixed else net.prior().optimal(theta)
    gates = (Bernoulli(theta).log_prob(xi) - Bernoulli(pi).log_prob(xi)).mean(0).sum()
    gates = gates if fixed else gates - net.prior().log_prob(pi).sum()
    mean, scale = net.weights_posterior.moments()
    prior_scale = net.weights_posterior.prior_scale_vector()
    there = net.weights_posterior.presence(net.by_gate(theta))
    ratio = Normal(mean, scale).log_prob(w) - Normal(torch.zeros_like(mean), prior_scale).log_prob(w)
    point = sum((p.square().sum() for p in net.point_weights().values()), torch.zeros(()))
    with net.weights_posterior.drawn(w):
        data = net.likelihood.nll(net(x, xi), y).mean()
    return {
        "data": data,
        "gates": gates / NUM_DATA,
        "weights": (there * ratio).sum() / NUM_DATA,
        "divergence": net.weights_posterior.divergence(net.by_gate(theta)) / NUM_DATA,
        "point": net.weight_precision / (2 * NUM_DATA) * point,
    }


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ["units", "branches", "mixed", "normalised_branches"])
def test_losses_are_the_sums_of_their_parts(name: str, prior: str) -> None:
    """`Trace_ELBO`, the divergence of Pyro's sites, and `GateELBO`, on the same draws."""
    net, (x, y) = bayesian(getattr(nets, name), prior), batch()
    net.eval()
    for seed in range(3):
        pyro.set_rng_seed(seed)
        guide = poutine.trace(net.guide).get_trace(x, y)
        model = poutine.trace(poutine.replay(net.model, trace=guide)).get_trace(x, y)
        xi, w = (guide.nodes[site]["value"].detach() for site in ("gates", "weights"))
        found = {key: float(value.detach()) for key, value in parts(net, x, y, xi, w).items()}
        fixed = found["data"] + found["gates"] + found["point"]
        pyro.set_rng_seed(seed)
        assert Trace_ELBO().loss(net.model, net.guide, x, y) == pytest.approx(fixed + found["weights"], rel=1e-7)
        kl = kl_divergence(guide.nodes["weights"]["fn"], model.nodes["weights"]["fn"]) * guide.nodes["weights"]["scale"]
        assert float(kl.detach()) == pytest.approx(found["divergence"], rel=1e-10)
        pyro.set_rng_seed(seed)
        ours = GateELBO("straight_through").loss(net.model, net.guide, x, y)
        theta = net.theta.detach()
        if prior == "flattening":
            gates = found["gates"] - float(((xi.mean(0) - theta) * net.log_gamma).sum()) / NUM_DATA
        else:
            gates = float(net.prior().penalty(theta).sum()) / NUM_DATA
        assert ours == pytest.approx(found["data"] + gates + found["divergence"] + found["point"], rel=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize("prior", PRIORS)
def test_all_losses_have_the_same_mean(prior: str) -> None:
    """`Trace_ELBO` and the enumeration of gates, over draws of the weights; fails by chance at 6e-5."""
    build = lambda: nn.Sequential(layers.Linear(3, 2, gate="unit"), nn.Tanh(), nn.Linear(2, 3))  # noqa: E731
    net, (x, y) = bayesian(build, prior), batch()
    args = (net.model, net.guide, x, y)
    exact = torch.tensor([GateELBO("exact").loss(*args) for _ in range(30)], dtype=torch.float64)
    pyros = torch.tensor([Trace_ELBO().loss(*args) for _ in range(100)], dtype=torch.float64)
    error = (exact.var() / len(exact) + pyros.var() / len(pyros)).sqrt()
    assert abs(float(exact.mean() - pyros.mean())) < STANDARD_ERRORS * float(error)
    assert float(error) < 0.06 * float(exact.mean())


@pytest.mark.parametrize("prior", PRIORS)
def test_the_gates_share_of_the_exact_gradient(prior: str) -> None:
    """∂L/∂θ_s: the price, the slope of the divergence and of the entropy, and the difference of the data's losses."""
    build = lambda: nn.Sequential(layers.Linear(3, 2, gate="unit"), nn.Tanh(), nn.Linear(2, 3))  # noqa: E731
    net, (x, y) = bayesian(build, prior), batch()
    pyro.set_rng_seed(1)
    w = poutine.trace(net.guide).get_trace(x, y).nodes["weights"]["value"].detach()
    pyro.set_rng_seed(1)
    loss = GateELBO("exact").differentiable_loss(net.model, net.guide, x, y)
    (gradient,) = torch.autograd.grad(loss, net.theta)
    theta = net.theta.detach()

    def mean_loss(*xi: float) -> Tensor:
        with net.weights_posterior.drawn(w), torch.no_grad():
            return net.likelihood.nll(net(x, torch.tensor([xi], dtype=torch.float64)), y).mean()

    q = theta[1]
    first = (1 - q) * (mean_loss(1, 0) - mean_loss(0, 0)) + q * (mean_loss(1, 1) - mean_loss(0, 1))
    expected = first + net.price[0]
    if prior == "fixed":
        expected = expected + torch.logit(theta[0]) / NUM_DATA
    torch.testing.assert_close(gradient[0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("prior", PRIORS)
def test_svi_trains_means_scales_and_gates(prior: str) -> None:
    net, (x, y) = bayesian(nets.mixed, prior), batch(12)
    before = {name: p.detach().clone() for name, p in net.trained().items()} | {"theta": net.theta.detach().clone()}
    svi = SVI(net.model, net.guide, bp.optim.ProjectedSGD({"lr": 0.5}, weights_args={"lr": 0.02}), loss=GateELBO())
    losses = [svi.step(x, y) for _ in range(15)]
    assert sum(losses[-3:]) < sum(losses[:3])
    now = net.trained() | {"theta": net.theta}
    assert all(not torch.equal(value, before[name]) for name, value in now.items())


# further passes -------------------------------------------------------------------------------------------------------


def idle() -> nn.Module:
    """Two branches that add nothing, layers with noise before, between and behind them."""
    blocks = [Residual(nn.Linear(4, 4)) for _ in range(2)]
    return nn.Sequential(nn.Linear(3, 4), blocks[0], nn.Tanh(), nn.Linear(4, 4), blocks[1], nn.Linear(4, 3))


@pytest.mark.parametrize("estimator", ["paired", "auto"])
def test_a_paired_difference_is_of_one_draw_of_the_noise(estimator: str) -> None:
    """A branch whose weights are 0 without doubt makes no difference, however loud the rest."""
    net, (x, y) = bayesian(idle), batch()
    net.train()
    with torch.no_grad():
        for block in (net.net[1], net.net[4]):
            for p in block.body.parameters():
                p.zero_()
            block.body.weight_log_scale.fill_(-100.0)
            block.body.bias_log_scale.fill_(-100.0)
    net.refresh()
    seen = set()
    for xi in ([1.0, 1.0], [0.0, 1.0], [1.0, 0.0]):
        for _ in range(6):
            loss = get_estimator(estimator)(
                BatchObjective(net, x, y), net.theta, torch.tensor([xi]).double(), torch.ones(2).double()
            )
            (gradient,) = torch.autograd.grad(loss, net.theta)
            visited = gradient.nonzero()[:, 0].tolist()
            seen |= set(visited)
            torch.testing.assert_close(gradient[visited], torch.full((len(visited),), 2.0).double(), rtol=0, atol=1e-6)
    assert seen == {0, 1}


def nested() -> nn.Module:
    """A branch within a branch, behind a layer of the outer one."""
    outer = Residual(nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4)), nn.Tanh()))
    return nn.Sequential(nn.Linear(3, 4), outer, nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("build", [nets.branches, nets.mixed, nets.shared_units, nested])
def test_a_flipped_gate_sees_the_noise_of_the_first_pass(build) -> None:
    """What is computed from the block on is what a whole pass gives that draws the same numbers."""
    net, (x, y) = bayesian(build), batch()
    net.train()
    for _ in range(4):
        xi = net.sample_gates(x)
        xi[:, : net.num_shared] = 1  # where a branch is on, a whole pass draws as many numbers
        objective = BatchObjective(net, x, y)
        torch.manual_seed(3)
        first = objective(xi, watch=range(net.num_shared)).detach()
        for s in range(net.num_shared):
            flipped = xi.clone()
            flipped[:, s] = 0
            torch.manual_seed(3)
            expected = net.likelihood.nll(net(x, flipped), y).detach()
            torch.testing.assert_close(objective.flipped(s), expected, rtol=0, atol=1e-12)
        assert torch.equal(objective.again(xi), first)


@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_exact_differences_are_of_one_draw_of_the_weights(name: str) -> None:
    net, (x, y) = bayesian(getattr(nets, name)), batch()
    xi = net.sample_gates(x)
    torch.manual_seed(5)
    found, _ = paired_differences(net, x, y, xi)
    torch.manual_seed(5)
    shared = shared_differences(net, x, y, xi)
    torch.testing.assert_close(shared, found[: net.num_shared])
    torch.manual_seed(5)
    with net.drawn_weights(), torch.no_grad():
        for s in range(net.num_gates):
            on, off = xi.clone(), xi.clone()
            on[:, s], off[:, s] = 1, 0
            expected = (net.likelihood.nll(net(x, on), y) - net.likelihood.nll(net(x, off), y)).mean()
            torch.testing.assert_close(found[s], expected)
    again, _ = paired_differences(net, x, y, xi)
    assert not torch.equal(again, found)
    assert all(layer.drawn is None for layer in net.weights_posterior.layers.values())
