"""The joint density of a data set, gates and weights, under Pyro's own inference: a regression known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, EmpiricalMarginal, Importance, Predictive
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, Gaussian
from bayesprune.layers import Gate, Residual

NOISE, PRECISION = 0.9, 1.5
X = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [2.0, -1.0]]).double()
Y = torch.tensor([[1.5], [-0.8], [2.5]]).double()
PRIORS = {"flattening": FlatteningPrior(torch.tensor([2.0, 5.0])), "fixed": FixedInclusion(torch.tensor([0.3, 0.6]))}
SLABS = {"point": {}, "normal": {"slab": "normal", "slab_scale": PRECISION**-0.5}}
GATES = torch.tensor(list(product((0.0, 1.0), repeat=2))).double()


def regression(prior: str = "fixed", slab: str = "point", theta: float = 0.9) -> BayesianNet:
    """y = Σ_s w_s ξ_s x_s + b + noise, two gated inputs: given ξ the posterior of (w, b) is normal."""
    torch.manual_seed(0)
    net = nn.Sequential(Gate(2), nn.Linear(2, 1))
    bnn = BayesianNet(
        net, Gaussian(NOISE), num_data=3, prior=PRIORS[prior], weight_precision=PRECISION, **SLABS[slab]
    ).double()  # fmt: skip
    with torch.no_grad():
        bnn.theta.fill_(theta)
    return bnn


def inclusion(prior: str) -> Tensor:
    """P(ξ_s = 1): λ, or the mean of π."""
    if prior == "fixed":
        return torch.tensor([0.3, 0.6]).double()
    log_gamma = torch.tensor([2.0, 5.0]).double()
    return 1 / log_gamma - 1 / (log_gamma.exp() - 1)


def log_prior(prior: str) -> Tensor:
    """Log probabilities of `GATES`, shape ``(4,)``."""
    return torch.where(GATES > 0.5, inclusion(prior), 1 - inclusion(prior)).log().sum(1)


def design(xi: Tensor) -> Tensor:
    return torch.cat([X * xi, torch.ones(3, 1).double()], 1)


def evidence(xi: Tensor) -> Tensor:
    """log p(y | x, ξ)."""
    covariance = design(xi) @ design(xi).T / PRECISION + NOISE**2 * torch.eye(3)
    return MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(Y[:, 0])


def weights_given(xi: Tensor) -> MultivariateNormal:
    """p(w, b | y, ξ)."""
    precision = design(xi).T @ design(xi) / NOISE**2 + PRECISION * torch.eye(3)
    return MultivariateNormal(precision.inverse() @ design(xi).T @ Y[:, 0] / NOISE**2, precision_matrix=precision)


def posterior(prior: str) -> Tensor:
    """P(ξ | y) of `GATES`, shape ``(4,)``."""
    return (log_prior(prior) + torch.stack([evidence(xi) for xi in GATES])).softmax(0)


def log_density(bnn: BayesianNet, xi: Tensor, w: Tensor) -> Tensor:
    given = poutine.condition(bnn.joint, data={"gates": xi, "weights": w})
    return poutine.trace(given).get_trace(X, Y).log_prob_sum()


@pytest.mark.parametrize("slab", SLABS)
@pytest.mark.parametrize("prior", PRIORS)
def test_the_log_density_is_that_of_the_model_and_of_nothing_else(prior: str, slab: str) -> None:
    """Nor does it depend on the guide, the present weights, the mode, or the number of examples that N says."""
    w = torch.tensor([0.8, -0.4, 0.3]).double()
    for i, xi in enumerate(GATES):
        data = Normal(design(xi) @ w, NOISE).log_prob(Y[:, 0]).sum()
        expected = log_prior(prior)[i] + Normal(0.0, PRECISION**-0.5).log_prob(w).sum() + data
        for theta in (0.9, 0.05):
            bnn = regression(prior, slab, theta)
            torch.testing.assert_close(log_density(bnn.train(), xi, w), expected, rtol=1e-6, atol=1e-6)
            with torch.no_grad():
                bnn.net[1].weight.add_(1.0)
            bnn.num_data = 50
            bnn.refresh()
            torch.testing.assert_close(log_density(bnn.eval(), xi, w), expected, rtol=1e-6, atol=1e-6)


def test_sites_and_a_draw_of_everything() -> None:
    bnn = regression()
    trace = poutine.trace(bnn.joint).get_trace(X)
    shapes = {name: tuple(site["value"].shape) for name, site in trace.nodes.items() if site["type"] == "sample"}
    assert shapes.pop("data") == (3,) and shapes == {"gates": (2,), "weights": (3,), "obs": (3, 1)}
    replayed = poutine.trace(poutine.replay(bnn.joint, trace=trace)).get_trace(X, Y)
    xi, w = (trace.nodes[site]["value"] for site in ("gates", "weights"))
    torch.testing.assert_close(replayed.log_prob_sum(), log_density(bnn, xi, w))
    samples = Predictive(bnn.joint, num_samples=5)(X)
    assert samples["obs"].shape == (5, 3, 1) and set(samples["gates"].unique().tolist()) == {0.0, 1.0}


def exact_guide(x: Tensor, y: Tensor) -> None:
    """Gates by a coin, weights from their posterior given these: importance weights then depend on the gates alone."""
    xi = pyro.sample("gates", dist.Bernoulli(torch.full((2,), 0.5).double()).to_event(1))
    exact = weights_given(xi)
    pyro.sample("weights", dist.MultivariateNormal(exact.loc, exact.covariance_matrix))


@pytest.mark.statistical
@pytest.mark.parametrize("slab", SLABS)
@pytest.mark.parametrize("prior", PRIORS)
def test_importance_sampling_weighs_gates_by_their_evidence(prior: str, slab: str) -> None:
    """Every weight is exact; that a gate vector of probability ¼ is missing from 60 has probability 1e-7."""
    pyro.set_rng_seed(0)
    sampling = Importance(regression(prior, slab).joint, exact_guide, num_samples=60).run(X, Y)
    found = {}
    for trace, log_weight in zip(sampling.exec_traces, sampling.log_weights, strict=True):
        found[tuple(trace.nodes["gates"]["value"].tolist())] = float(log_weight)
    exact = log_prior(prior) + torch.stack([evidence(xi) for xi in GATES]) + math.log(4)
    for xi, expected in zip(GATES, exact, strict=True):
        assert found[tuple(xi.tolist())] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.statistical
def test_importance_sampling_from_the_prior_agrees_with_enumeration() -> None:
    """5 standard errors of a weighted mean, fails by chance at 6e-7 a gate."""
    pyro.set_rng_seed(1)
    sampling = Importance(regression("fixed").joint, num_samples=400).run(X, Y)
    found = EmpiricalMarginal(sampling, "gates").mean
    p = torch.stack([torch.as_tensor(w) for w in sampling.log_weights]).softmax(0)
    xi = torch.stack([trace.nodes["gates"]["value"] for trace in sampling.exec_traces])
    error = ((p[:, None] * (xi - found)).square().sum(0)).sqrt()
    exact = posterior("fixed") @ GATES
    assert bool(((found - exact).abs() < 5 * error).all()) and bool((error < 0.1).all())
    assert bool(((inclusion("fixed") - exact).abs() > 5 * error).any())  # the data do count


def chain(model: object, samples: int) -> Tensor:
    """Weights from a chain of HMC, shape ``(samples, 3)``."""
    pyro.set_rng_seed(2)
    kernel = HMC(model, step_size=0.5, num_steps=4, adapt_step_size=False)
    initial = {"weights": torch.zeros(3).double()}
    mcmc = MCMC(kernel, num_samples=samples, warmup_steps=20, initial_params=initial, disable_progbar=True)
    mcmc.run(X, Y)
    return mcmc.get_samples()["weights"]


def verify_chain(samples: Tensor, mean: Tensor, second: Tensor, blocks: int = 20) -> None:
    """Means of w and of w² within 4.5 standard errors, from means of blocks; fails by chance at 3e-4 an entry."""
    for values, exact in ((samples, mean), (samples.square(), second)):
        means = torch.stack([block.mean(0) for block in values.chunk(blocks)])
        error = means.std(0) / blocks**0.5
        assert bool(((means.mean(0) - exact).abs() < 4.5 * error).all()), ((means.mean(0) - exact) / error).tolist()


@pytest.mark.statistical
def test_hmc_over_weights_with_gates_conditioned() -> None:
    """The normal posterior given these gates."""
    gates, bnn = torch.tensor([1.0, 0.0]).double(), regression()
    samples = chain(poutine.condition(bnn.joint, data={"gates": gates}), 200)
    exact = weights_given(gates)
    verify_chain(samples, exact.mean, exact.variance + exact.mean.square())


@pytest.mark.parametrize("prior", PRIORS)
def test_gates_are_marginalised_by_enumeration(prior: str) -> None:
    """The potential energy of HMC is that of p(w, y), its sum over all gate vectors."""
    bnn, w = regression(prior), torch.tensor([0.8, -0.4, 0.3]).double()
    _, potential, _, _ = initialize_model(bnn.joint, (X, Y))
    expected = torch.stack([log_density(bnn, xi, w) for xi in GATES]).logsumexp(0)
    torch.testing.assert_close(-potential({"weights": w}), expected)


@pytest.mark.slow
@pytest.mark.statistical
def test_hmc_over_weights_with_gates_marginalised() -> None:
    """The mixture of normal posteriors."""
    samples = chain(regression().joint, 900)
    parts = [weights_given(xi) for xi in GATES]
    mean = posterior("fixed") @ torch.stack([part.mean for part in parts])
    second = posterior("fixed") @ torch.stack([part.variance + part.mean.square() for part in parts])
    verify_chain(samples, mean, second)


def mixed() -> nn.Module:
    """Convolutions, a normalisation, dropout, a branch."""
    body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    return nn.Sequential(layers.Conv1d(1, 2, 3, gate="unit"), nn.Flatten(), nn.Linear(4, 3), Residual(body))


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_every_weight_is_drawn_and_only_from_its_prior(slab: str) -> None:
    torch.manual_seed(0)
    bnn = BayesianNet(mixed(), num_data=10, weight_precision=4.0, slab=slab).train()
    x, y = torch.randn(7, 1, 4), torch.arange(7) % 3
    present = bnn.joint_weights()
    assert list(present) == [
        *("0.weight", "0.bias", "2.weight", "2.bias", "3.body.0.weight", "3.body.0.bias"),
        *("3.body.1.weight", "3.body.1.bias"),
    ]
    vector = torch.cat([w.flatten() for w in present.values()])
    again = bnn.joint_weights(vector.expand(2, -1))
    assert all(torch.equal(again[name], w.expand(2, *w.shape)) for name, w in present.items())
    state = torch.get_rng_state()
    gates = torch.tensor([1.0, 0.0, 1.0])
    trace = poutine.trace(poutine.condition(bnn.joint, {"gates": gates, "weights": vector})).get_trace(x, y)
    assert torch.equal(torch.get_rng_state(), state) and bnn.training and bnn.net[3].body[2].training
    with torch.no_grad():
        outputs = BayesianNet(bnn.net, num_data=10, slab=slab).eval()
        with outputs.draw.use(gates):
            expected = outputs.net(x).log_softmax(1)[torch.arange(7), y]
    torch.testing.assert_close(trace.nodes["obs"]["fn"].log_prob(y), expected)
    scales = bnn.joint_weights(trace.nodes["weights"]["fn"].base_dist.scale)
    for name, scale in scales.items():
        normal = slab == "normal" and not name.startswith("3.body.1")
        posterior = bnn.weights_posterior
        layer = list(posterior.layers).index(name.rpartition(".")[0]) if normal else 0
        assert torch.equal(scale, (posterior.scales[layer] if normal else torch.tensor(0.5)).expand(scale.shape))


def test_weights_without_a_prior_have_no_joint_density() -> None:
    bnn = BayesianNet(nn.Sequential(Gate(2), nn.Linear(2, 1)), "gaussian", num_data=3, weight_precision=0.0)
    with pytest.raises(ConfigError, match=r"joint: weight_precision=0 leaves '1\.weight' without a proper prior"):
        bnn.joint(X.float(), Y.float())


def test_more_gates_than_can_be_summed_over_are_refused_by_name() -> None:
    bnn = BayesianNet(nn.Sequential(Gate(17), nn.Linear(17, 1)), "gaussian", num_data=3)
    kernel = MCMC(HMC(bnn.joint), num_samples=1, warmup_steps=0, disable_progbar=True)
    with pytest.raises(ConfigError, match=r"at most 16 gates, and the network has 17; give 'gates' a value"):
        kernel.run(torch.randn(3, 17), torch.randn(3, 1))


@pytest.mark.parametrize(("likelihood", "y"), [("categorical", torch.arange(5) % 2), ("bernoulli", torch.ones(5, 2))])
def test_every_likelihood_is_enumerated(likelihood: str, y: Tensor) -> None:
    torch.manual_seed(0)
    bnn = BayesianNet(nn.Sequential(Gate(2), nn.Linear(2, 2)), likelihood, num_data=5)
    x, w = torch.randn(5, 2), torch.randn(6)
    _, potential, _, _ = initialize_model(bnn.joint, (x, y))
    each = []
    for xi in GATES.float():
        given = poutine.condition(bnn.joint, data={"gates": xi, "weights": w})
        each.append(poutine.trace(given).get_trace(x, y).log_prob_sum())
    torch.testing.assert_close(-potential({"weights": w}), torch.stack(each).logsumexp(0))


@pytest.mark.parametrize("density", ["joint", "model"])
@pytest.mark.parametrize("change", [lambda y: y[:, 0], lambda y: y.repeat(1, 2), lambda y: y[:-1]])
def test_targets_of_another_shape_are_not_broadcast(density: str, change: Callable[[Tensor], Tensor]) -> None:
    bnn = BayesianNet(nn.Sequential(Gate(3), nn.Linear(3, 1)), "gaussian", num_data=8)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    with pytest.raises(DataError, match=r"targets have shape|outputs for 7 targets"):
        getattr(bnn, density)(x, change(y))


def test_joint_names_inputs_that_the_network_does_not_take() -> None:
    bnn = BayesianNet(nn.Sequential(Gate(3), nn.Linear(3, 1)), "gaussian", num_data=8)
    with pytest.raises(
        DataError, match=r"joint: the network does not take inputs of shape .*float64: layer '1', Linear"
    ):
        bnn.joint(torch.randn(8, 3).double(), torch.randn(8, 1))
