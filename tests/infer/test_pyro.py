"""The Bayesian network as ordinary Pyro model and guide: SVI, Predictive, handlers, rendering."""

from __future__ import annotations

import copy

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.infer import Likelihood
from bayesprune.infer.likelihoods import Bernoulli, Categorical, Gaussian
from tests.infer import nets
from tests.infer.nets import Case, weight_penalty


def contract_net(*between: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        layers.Linear(784, 300, gate="unit"),
        nn.ReLU(),
        layers.Linear(300, 100, gate="unit"),
        nn.ReLU(),
        *between,
        layers.Residual(nn.Sequential(nn.Linear(100, 100), nn.ReLU())),
        nn.Linear(100, 10),
    )


NETS = [
    pytest.param((), id="of the contract"),
    pytest.param((nn.Linear(100, 100),), id="with a layer before its branch"),
]


def contract_case(between: tuple[nn.Module, ...]) -> tuple[bp.BayesianNet, Tensor, Tensor]:
    prior = bp.distributions.FlatteningPrior(log_gamma=18.0)
    net = contract_net(*copy.deepcopy(between))
    bnn = bp.BayesianNet(net, likelihood="categorical", num_data=60_000, prior=prior)
    return bnn, torch.randn(16, 1, 28, 28), torch.arange(16) % 10


def sample_sites(model: object, *args: object) -> list[str]:
    trace = poutine.trace(model).get_trace(*args)
    return [name for name, site in trace.nodes.items() if site["type"] == "sample"]


@pytest.mark.parametrize("between", NETS)
def test_svi_with_projected_sgd_on_the_example(between: tuple[nn.Module, ...]) -> None:
    bnn, x, y = contract_case(between)
    svi = SVI(bnn.model, bnn.guide, bp.optim.ProjectedSGD({"lr": 0.1}), loss=bp.infer.GateELBO())
    weight = bnn.net[1].weight.detach().clone()
    before = bnn.theta.detach().clone()
    losses = [svi.step(x, y) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5
    assert float((bnn.theta.detach() - before).abs().max()) > 1e-3
    assert bool(((bnn.theta >= 0) & (bnn.theta <= 1)).all())
    assert not torch.equal(bnn.net[1].weight, weight)
    probs = bnn.gate_probs()
    assert [len(theta) for theta in probs.values()] == [300, 100, 1] and list(probs)[:2] == ["1", "3"]
    assert torch.equal(bnn.net[1].gate.theta, probs["1"]) and not torch.equal(probs["1"], torch.full((300,), 0.9))


def test_svi_takes_the_step_that_projected_sgd_takes_on_the_elbos_gradient() -> None:
    case = Case(nets.units)
    args = (case.net.model, case.net.guide, case.x, case.y)
    pyro.set_rng_seed(2)
    loss = bp.infer.GateELBO().differentiable_loss(*args)
    (gradient,) = torch.autograd.grad(loss, case.net.theta)
    expected = (case.net.theta.detach() - 3.0 * gradient).clamp(0, 1)
    pyro.set_rng_seed(2)
    svi = SVI(case.net.model, case.net.guide, bp.optim.ProjectedSGD({"lr": 3.0}), loss=bp.infer.GateELBO())
    svi.step(case.x, case.y)
    torch.testing.assert_close(case.net.theta.detach(), expected)


@pytest.mark.parametrize("between", NETS)
def test_the_elbo_as_a_module_with_torch_optimisers(between: tuple[nn.Module, ...]) -> None:
    bnn, x, y = contract_case(between)
    elbo = bp.infer.GateELBO()(bnn.model, bnn.guide)
    weights = torch.optim.Adam(bnn.weights().values(), lr=1e-3)
    gates = bp.optim.projected.ProjectedGateSGD([bnn.theta], lr=0.1)
    before, losses = bnn.theta.detach().clone(), []
    for _ in range(12):
        weights.zero_grad()
        gates.zero_grad()
        loss = elbo(x, y)
        loss.backward()
        weights.step()
        gates.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    assert not torch.equal(bnn.theta.detach(), before)


def test_trace_elbo_with_plain_pyro_also_trains() -> None:
    case = Case(nets.units)
    svi = SVI(case.net.model, case.net.guide, bp.optim.ProjectedSGD({"lr": 0.1}), loss=Trace_ELBO())
    before = case.net.theta.detach().clone()
    assert torch.isfinite(torch.tensor([svi.step(case.x, case.y) for _ in range(5)])).all()
    assert not torch.equal(case.net.theta.detach(), before)


def test_predictive_samples_targets_and_gates() -> None:
    case = Case(nets.units)
    samples = Predictive(case.net.model, guide=case.net.guide, num_samples=9)(case.x)
    assert samples["obs"].shape == (9, nets.ROWS) and set(samples["obs"].unique().tolist()) <= {0, 1, 2}
    gates = Predictive(case.net.guide, num_samples=9)(case.x)["gates"]
    assert gates.shape == (9, nets.ROWS, 7) and set(gates.unique().tolist()) == {0.0, 1.0}


@pytest.mark.statistical
def test_predictive_agrees_with_predict() -> None:
    """Class frequencies of the two, 4 standard errors, 6e-5 for each of 18 entries."""
    case = Case(nets.branches)
    n = 300
    targets = Predictive(case.net.model, guide=case.net.guide, num_samples=n)(case.x)["obs"]
    frequencies = torch.stack([(targets == k).double().mean(0) for k in range(3)], 1)
    prediction = case.net.predict(case.x, num_samples=n)
    p = prediction.mean
    error = 4 * (p * (1 - p) / n + prediction.samples.var(0) / n).sqrt()
    assert bool(((frequencies - p).abs() <= error).all())


def test_poutine_trace_holds_every_term_of_the_joint_density() -> None:
    case = Case(nets.units)
    net = case.net
    trace = poutine.trace(net.model).get_trace(case.x, case.y)
    xi, pi = trace.nodes["gates"]["value"], trace.nodes["inclusion"]["value"]
    gates = torch.distributions.Bernoulli(pi).log_prob(xi).sum(1).mean()
    expected = (net.prior().log_prob(pi).sum() + gates) / net.num_data - weight_penalty(net) - case.mean_loss(xi)
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_condition_on_gates_as_one_vector(name: str) -> None:
    case = Case(getattr(nets, name))
    xi = (torch.arange(case.net.num_gates) % 2).double()
    outputs = poutine.condition(case.net.model, data={"gates": xi})(case.x, case.y)
    torch.testing.assert_close(outputs, case.net(case.x, xi))
    trace = poutine.trace(poutine.condition(case.net.model, data={"gates": xi})).get_trace(case.x, case.y)
    pi = trace.nodes["inclusion"]["value"]
    law = torch.distributions.Bernoulli(pi)
    assert trace.nodes["gates"]["is_observed"]
    torch.testing.assert_close(
        trace.nodes["gates"]["fn"].log_prob(trace.nodes["gates"]["value"]), law.log_prob(xi).sum()
    )
    assert torch.isfinite(trace.log_prob_sum())


def test_render_model() -> None:
    graphviz = pytest.importorskip("graphviz")
    case = Case(nets.units)
    drawing = pyro.render_model(case.net.model, model_args=(case.x, case.y), render_distributions=True)
    assert isinstance(drawing, graphviz.Digraph)
    for text in ("inclusion -> gates", "gates -> obs", "GateDraws", "FlatteningPrior"):
        assert text in drawing.source


LIKELIHOODS = [
    pytest.param(Gaussian(0.5), torch.linspace(-1, 1, 12).view(6, 2), id="gaussian"),
    pytest.param(Bernoulli(), (torch.arange(12).view(6, 2) % 2).float(), id="bernoulli"),
    pytest.param(Categorical(), torch.arange(6) % 2, id="categorical"),
    pytest.param(Categorical(label_smoothing=0.1), torch.arange(6) % 2, id="categorical, smoothed"),
    pytest.param(Bernoulli(), torch.arange(12).view(6, 2) % 2, id="bernoulli, integer targets"),
]


@pytest.mark.parametrize(("likelihood", "y"), LIKELIHOODS)
def test_every_likelihood_as_a_site_in_its_plate(likelihood: Likelihood, y: Tensor) -> None:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.Tanh(), nn.Linear(4, 2))
    bnn = bp.BayesianNet(net, likelihood, num_data=10)
    x = torch.randn(6, 3)
    trace = poutine.trace(bnn.model).get_trace(x, y)
    site = trace.nodes["obs"]
    expected = -likelihood.nll(bnn(x, trace.nodes["gates"]["value"]), y)
    torch.testing.assert_close(site["fn"].log_prob(site["value"]), expected)
    assert Predictive(bnn.model, guide=bnn.guide, num_samples=4)(x)["obs"].shape == (4, *y.shape)


@pytest.mark.parametrize("depth", [2, 20])
def test_one_site_for_all_gates_however_deep(depth: int) -> None:
    bnn = bp.BayesianNet(bp.networks.resmlp((3,), 3, depth=depth, width=4), num_data=10)
    x, y = torch.randn(5, 3), torch.arange(5) % 3
    assert sample_sites(bnn.model, x, y) == ["inclusion", "gates", "slab", "data", "obs"]
    assert sample_sites(bnn.guide, x, y) == ["inclusion", "gates"]
    assert bnn.num_gates == depth


def test_a_parameter_store_of_another_network_is_refused_with_what_to_do() -> None:
    first, second = Case(nets.units), Case(nets.units)
    first.net.guide(first.x)
    with pytest.raises(ConfigError, match=r"holds 'theta' of another .* call pyro\.clear_param_store\(\)"):
        second.net.guide(second.x)
    pyro.clear_param_store()
    second.net.guide(second.x)


def test_pi_in_the_guide_is_at_its_optimum_given_theta() -> None:
    case = Case(nets.units, (0.0, 1.0, 0.3))
    pi = poutine.trace(case.net.guide).get_trace(case.x).nodes["inclusion"]["value"]
    theta, gamma = case.net.theta.detach(), case.net.log_gamma.exp()
    torch.testing.assert_close(pi, theta / (theta + gamma * (1 - theta)))
