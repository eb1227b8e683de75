"""Noise whose scale is learned: its prior, closed forms of the estimate, and residuals that a fit has taken."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.infer import (
    BayesianNet,
    LearnedGaussian,
    Likelihood,
)
from bayesprune.infer.likelihoods import Bernoulli, Categorical, Gaussian
from bayesprune.infer.targets import WeightedTargets, losses
from tests.infer.nets import learned


def test_without_parameters_there_is_no_penalty() -> None:
    for likelihood in (Categorical(), Gaussian(), Bernoulli()):
        assert likelihood.penalty() == 0 and not likelihood.state_dict()


def test_the_penalty_is_the_prior_of_the_log_scale() -> None:
    """Gamma on the precision, changed to log σ: |dσ⁻²/d log σ| = 2 σ⁻²."""
    sigma = torch.tensor([0.05, 0.3, 1.0, 4.0]).double()
    precision = sigma**-2
    law = torch.distributions.Gamma(torch.tensor(1.5).double(), torch.tensor(1.5 * 0.3**2).double())
    expected = -(law.log_prob(precision) + (2 * precision).log())
    each = [learned(float(value), scale=0.3, prior_count=3.0).penalty() for value in sigma]
    torch.testing.assert_close(torch.stack(each), expected)
    torch.testing.assert_close(learned(sigma.tolist(), scale=0.3, prior_count=3.0).penalty(), expected.sum())
    assert int(expected.argmin()) == 1  # the prior's mode is its guess


@pytest.mark.parametrize("prior_count", [0.5, 1.0, 12.0])
def test_the_prior_of_the_log_scale_integrates_to_1(prior_count: float) -> None:
    grid = torch.linspace(-10, 60, 7001).double()
    density = torch.stack([(-learned(math.exp(t), prior_count=prior_count).penalty()).exp() for t in grid[::10]])
    assert float(torch.trapezoid(density.detach(), grid[::10])) == pytest.approx(1, abs=1e-9)


RESIDUALS = torch.linspace(-1, 2, 24).view(8, 3).double().square() * torch.tensor([0.5, 1.0, 3.0]).double()
SHARED = (RESIDUALS.square().sum() + 4 * 0.7**2) / (24 + 4)  # σ² = (R + ν s²)/(n + ν)
SEPARATE = (RESIDUALS.square().sum(0) + 4 * 0.7**2) / (8 + 4)


@pytest.mark.parametrize("best", [SHARED, SEPARATE], ids=["one scale", "one an entry"])
def test_the_loss_is_stationary_at_the_closed_form_of_the_noise_scale(best: Tensor) -> None:
    likelihood = learned(best.sqrt().tolist(), scale=0.7, prior_count=4.0)
    outputs = torch.randn(8, 3).double()
    loss = likelihood.nll(outputs, outputs + RESIDUALS).mean() + likelihood.penalty() / 8
    (gradient,) = torch.autograd.grad(loss, likelihood.log_scale)
    torch.testing.assert_close(gradient, torch.zeros_like(best), atol=1e-14, rtol=0)
    with torch.no_grad():
        likelihood.log_scale += 0.1
        assert likelihood.nll(outputs, outputs + RESIDUALS).mean() + likelihood.penalty() / 8 > loss


@pytest.mark.parametrize("best", [SHARED, SEPARATE], ids=["one scale", "one an entry"])
def test_training_finds_the_noise_scale(best: Tensor) -> None:
    likelihood = LearnedGaussian(0.7, tuple(best.shape), prior_count=4.0).double()
    torch.testing.assert_close(likelihood.noise_scale.detach(), torch.full_like(best, 0.7))
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = likelihood.nll(torch.zeros_like(RESIDUALS), RESIDUALS).mean() + likelihood.penalty() / 8
        value.backward()
        return value.detach()

    optimizer.step(loss)
    torch.testing.assert_close(likelihood.noise_scale.detach().square(), best, rtol=1e-5, atol=0)


def test_the_noise_scale_of_an_exact_fit_stays_above_0() -> None:
    likelihood = learned(math.sqrt(4 * 0.7**2 / 12), scale=0.7, prior_count=4.0)
    y = torch.ones(8).double()
    loss = likelihood.nll(y, y).mean() + likelihood.penalty() / 8
    (gradient,) = torch.autograd.grad(loss, likelihood.log_scale)
    assert abs(float(gradient)) < 1e-14


def network(likelihood: Likelihood) -> BayesianNet:
    return BayesianNet(
        nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.Tanh(), nn.Linear(4, 2)), likelihood, num_data=8
    )


def test_the_noise_scale_belongs_to_the_network() -> None:
    net, other = network(learned([0.3, 0.4])), network(LearnedGaussian(shape=(2,)))
    assert "likelihood.log_scale" in dict(net.named_parameters()) and not any("log_scale" in n for n in net.weights())
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other.likelihood.noise_scale.detach(), torch.tensor([0.3, 0.4]))
    assert other.double().likelihood.noise_scale.dtype == torch.float64
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.likelihood.log_scale.zero_()
    assert net.likelihood.noise_scale.tolist() == pytest.approx([0.3, 0.4])
    assert twin.likelihood.noise_scale.tolist() == [1, 1]


def test_fitted_parameters_leave_as_many_residuals_to_the_noise() -> None:
    """σ² = (R + ν s²)/(n + ν − d) is where the derivative of the objective vanishes."""
    likelihood = LearnedGaussian(scale=0.5, prior_count=3.0).double()
    residuals = torch.linspace(-1, 2, 40, dtype=torch.float64)[:, None]
    best = (residuals.square().sum() + 3 * 0.25) / (40 + 3 - 12)
    with torch.no_grad():
        likelihood.log_scale.copy_(0.5 * best.log())
    likelihood.set_fitted_parameters(12)
    loss = likelihood.nll(torch.zeros_like(residuals), residuals).sum() + likelihood.penalty()
    (slope,) = torch.autograd.grad(loss, likelihood.log_scale)
    assert float(slope) == pytest.approx(0, abs=1e-10)


def test_weights_move_the_noise_scale_as_repeated_examples_do() -> None:
    weights = torch.arange(8.0).double()
    best = ((weights[:, None] * RESIDUALS.square()).sum(0) + 4 * 0.7**2) / (weights.sum() + 4)
    likelihood = learned(best.sqrt().tolist(), scale=0.7, prior_count=4.0)
    nll = losses(likelihood, torch.zeros_like(RESIDUALS), WeightedTargets(RESIDUALS, weights))
    (gradient,) = torch.autograd.grad(nll.mean() + likelihood.penalty() / 8, likelihood.log_scale)
    torch.testing.assert_close(gradient, torch.zeros(3).double(), atol=1e-14, rtol=0)
