"""What a step of θ asks of a prior: the slope of its divergence, the unit of a step, the optimum."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine

from bayesprune.distributions import FixedInclusion, FlatteningPrior, GatePrior, bernoulli_kl
from bayesprune.distributions.gate_prior import EDGE

LOG_GAMMA = torch.tensor([0.5, 4.0, 18.0, 90.0], dtype=torch.float64)
THETA = torch.tensor([1e-3, 0.3, 0.5, 0.98], dtype=torch.float64)
PRIORS = [FlatteningPrior(LOG_GAMMA), FixedInclusion(log_gamma=LOG_GAMMA)]


@pytest.mark.parametrize("prior", PRIORS)
def test_a_penalty_is_the_price_and_the_divergence_whose_derivative_is_the_slope(prior: GatePrior) -> None:
    theta = THETA.clone().requires_grad_()
    divergence = prior.divergence(theta)
    torch.testing.assert_close(divergence + theta * LOG_GAMMA, prior.penalty(theta), rtol=1e-12, atol=1e-12)
    slope = torch.zeros_like(THETA)
    if divergence.requires_grad:
        (slope,) = torch.autograd.grad(divergence.sum(), theta)
    torch.testing.assert_close(prior.slope(THETA), slope, rtol=1e-12, atol=1e-12)


def test_slopes_are_finite_at_decisions() -> None:
    ends = torch.tensor([0.0, EDGE, 1 - EDGE, 1.0], dtype=torch.float64)
    assert FlatteningPrior.slope(ends).tolist() == [0, 0, 0, 0]
    steep = 13.815509557963773  # log((1 − 1e-6)/1e-6)
    assert FixedInclusion.slope(ends).tolist() == pytest.approx([-steep, -steep, steep, steep], rel=1e-9)


@pytest.mark.parametrize("prior", [FlatteningPrior, FixedInclusion])
def test_the_optimum_is_the_least_on_a_fine_grid(prior: type[GatePrior]) -> None:
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    evidence, num_data = torch.tensor([-0.3, -0.02, 0.01, 0.3], dtype=torch.float64), 50
    objective = grid * evidence + prior(log_gamma=torch.tensor(4.0).double()).divergence(grid) / num_data
    torch.testing.assert_close(prior.optimum(evidence, num_data), grid[objective.argmin(0), 0], rtol=0, atol=1e-5)


def test_what_is_certain_is_rounded_to_a_decision() -> None:
    evidence = torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2])
    near = 1 / (1 + torch.tensor(10.0).exp())
    expected = torch.tensor([1.0, 1 - near, 0.5, near, 0.0])
    torch.testing.assert_close(FixedInclusion.optimum(evidence, 100), expected, rtol=1e-5, atol=0)
    assert FlatteningPrior.optimum(evidence, 100).tolist() == [1, 1, 0, 0, 0]


def test_units_are_prices_of_one_nat_at_least_where_the_prior_is_fixed() -> None:
    price = torch.tensor([-0.5, 0.0, 0.001, 0.25])
    assert FlatteningPrior.unit(price, 100) is price
    assert FixedInclusion.unit(price, 100).tolist() == pytest.approx([0.5, 0.01, 0.01, 0.25])


def test_log_odds_of_a_gate() -> None:
    assert torch.equal(FixedInclusion(log_gamma=LOG_GAMMA).log_odds, -LOG_GAMMA)
    mean = 1 / LOG_GAMMA - 1 / torch.expm1(LOG_GAMMA)
    torch.testing.assert_close(FlatteningPrior(LOG_GAMMA).log_odds, torch.logit(mean), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", PRIORS)
def test_its_sites_and_the_gates_divergence_add_up_to_the_penalty(prior: GatePrior) -> None:
    """KL(Bern(θ) ‖ Bern(π)) − log p(π) at the guide's π."""
    guide = poutine.trace(prior.pyro_guide).get_trace(THETA)
    model = poutine.trace(poutine.replay(prior.pyro_model, trace=guide)).get_trace()
    pi = model.nodes["_RETURN"]["value"]
    density = model.log_prob_sum() if "inclusion" in model.nodes else torch.zeros(())
    found = bernoulli_kl(THETA, pi).sum() - density
    assert ("inclusion" in guide.nodes) == prior.decides
    torch.testing.assert_close(found, prior.penalty(THETA).sum(), rtol=1e-9, atol=1e-9)
    pyro.clear_param_store()


@pytest.mark.parametrize("prior", PRIORS)
def test_expanding_keeps_the_law(prior: GatePrior) -> None:
    wider = type(prior)(log_gamma=LOG_GAMMA[:1]).expand((3,))
    assert type(wider) is type(prior) and wider.batch_shape == (3,)
    assert torch.equal(wider.penalty(THETA[:3]), type(prior)(log_gamma=LOG_GAMMA[0]).penalty(THETA[:3]))
