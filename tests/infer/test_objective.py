"""Each term's derivative in a step is autograd's of its value, and the values add up to Pyro's loss."""

from __future__ import annotations

from itertools import product

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from bayesprune.distributions import FixedInclusion, FlatteningPrior, GatePrior
from bayesprune.infer import BayesianNet, LearnedGaussian
from bayesprune.infer.objective import (
    TERMS,
    Decay,
    GateDivergence,
    LikelihoodPrior,
    Price,
    WeightDivergence,
    add_gradients,
    penalty,
    total,
)
from bayesprune.layers import Residual
from tests.infer.verify import probabilities

NUM_DATA, ROWS = 40, 5
PRIORS = {"flattening": FlatteningPrior(4.0), "fixed": FixedInclusion(0.3)}
GRID = [(prior, weights) for prior in PRIORS for weights in ("point", "normal")]


def model(prior: str, weights: str) -> BayesianNet:
    """Three branches, layers that can be Normal and an activation whose weight cannot; noise that is learned."""
    blocks = [Residual(nn.Sequential(nn.Linear(3, 3), nn.PReLU(3))) for _ in range(3)]
    net = nn.Sequential(nn.Linear(2, 3), *blocks, nn.Linear(3, 1)).double()
    likelihood = LearnedGaussian(0.5, prior_count=3.0).double()
    bnn = BayesianNet(net, likelihood, num_data=NUM_DATA, prior=PRIORS[prior], weight_precision=2.0, weights=weights)
    with torch.no_grad():
        bnn.theta.copy_(torch.tensor([0.2, 0.5, 0.9]))
        likelihood.log_scale.fill_(0.3)
    bnn.double().refresh()
    return bnn


def slopes(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    return list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))


def verify_close(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-9) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.to(other), other, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("prior", "weights"), GRID)
def test_the_derivative_in_theta_is_the_price_and_the_slope_of_the_prior(prior: str, weights: str) -> None:
    bnn = model(prior, weights)
    theta = bnn.theta
    verify_close([bnn.log_gamma / NUM_DATA], slopes(Price().value(bnn), [theta]))
    verify_close([bnn.weights_cost / NUM_DATA], slopes(WeightDivergence().value(bnn), [theta]), rtol=1e-6)  # float32
    verify_close(slopes(GateDivergence().value(bnn), [theta]), [bnn.prior_type.slope(theta) / NUM_DATA], rtol=1e-4)
    verify_close([bnn.price], slopes(Price().value(bnn) + WeightDivergence().value(bnn), [theta]), rtol=1e-6)
    for term in (Decay(), LikelihoodPrior()):
        assert not bool(slopes(term.value(bnn), [theta])[0].any())


@pytest.mark.parametrize("weights", ["point", "normal"])
def test_decay_is_the_weight_decay_of_the_optimisers_groups(weights: str) -> None:
    bnn = model("flattening", weights)
    groups = bnn.parameter_groups()
    parameters = [p for group in groups for p in group["params"]]
    decayed = [group["weight_decay"] * p for group in groups for p in group["params"]]
    verify_close(slopes(Decay().value(bnn), parameters), decayed)
    assert sum(bool(d.any()) for d in decayed) == (13 if weights == "point" else 3)


@pytest.mark.parametrize(("term", "count"), [(WeightDivergence(), 20), (LikelihoodPrior(), 1)])
def test_gradients_that_are_added_are_those_of_the_value(term: WeightDivergence | LikelihoodPrior, count: int) -> None:
    bnn = model("fixed", "normal")
    with torch.no_grad():
        bnn.theta.fill_(1.0)  # of a branch only the share while it is on is added, which a skipped one does not get
    bnn.refresh()
    parameters = list(bnn.trained().values())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    expected = slopes(term.value(bnn), parameters)
    term.add_gradients(bnn)
    found = [p.grad for p in parameters]
    verify_close(found, expected, rtol=1e-6)
    assert sum(bool(g.any()) for g in found) == count


def test_all_that_is_added_is_what_neither_decay_nor_estimators_bring() -> None:
    bnn = model("flattening", "normal")
    with torch.no_grad():
        bnn.theta.fill_(1.0)
    bnn.refresh()
    parameters = list(bnn.trained().values())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    add_gradients(bnn)
    value = total(bnn) - Decay().value(bnn)
    verify_close([p.grad for p in parameters], slopes(value, parameters), rtol=1e-6)


@pytest.mark.parametrize(("prior", "weights"), GRID)
def test_the_values_add_up_to_pyros_loss_without_its_data_term(prior: str, weights: str) -> None:
    """In the mean over all gates, and over the weights μ ± σ, which have the moments of the posterior."""
    pyro.clear_param_store()
    bnn = model(prior, weights)
    x, y = torch.randn(ROWS, 2).double(), torch.randn(ROWS, 1).double()
    found = torch.zeros(()).double()
    for gates in product((0.0, 1.0), repeat=3):
        xi = torch.tensor([gates]).double()
        for data in draws(bnn, xi):
            guide = poutine.trace(poutine.condition(bnn.guide, data=data)).get_trace(x)
            values = {name: guide.nodes[name]["value"] for name in guide.stochastic_nodes} | data
            traced = poutine.trace(poutine.condition(bnn.model, data=values)).get_trace(x, y)
            traced.compute_log_prob()
            rest = guide.log_prob_sum() - traced.log_prob_sum() + traced.nodes["obs"]["log_prob_sum"]
            found = found + probabilities(bnn.theta.detach(), xi)[0] * rest.detach() / len(draws(bnn, xi))
    torch.testing.assert_close(total(bnn).detach(), found, rtol=1e-6, atol=0)


def draws(bnn: BayesianNet, xi: Tensor) -> list[dict[str, Tensor]]:
    if bnn.weights_posterior.name == "point":
        return [{"gates": xi}]
    mean, scale = bnn.weights_posterior.moments()
    return [{"gates": xi, "weights": (mean + sign * scale).detach()} for sign in (-1, 1)]


@pytest.mark.parametrize(("prior", "weights"), GRID)
def test_what_is_recorded_is_all_but_the_flattening_priors_constant(prior: str, weights: str) -> None:
    bnn = model(prior, weights)
    law: GatePrior = bnn.prior()
    constant = -law.log_normalizer.sum() / NUM_DATA if isinstance(law, FlatteningPrior) else 0.0
    assert penalty(bnn) == pytest.approx(float(total(bnn).detach() - constant), rel=1e-6)
    assert [term.constant(bnn) for term in TERMS] == [False] * 4 + [prior == "flattening"]
