"""How many parameters a fit takes: against the algebra of ridge regression, and what the noise makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BayesianNet, LearnedGaussian, effective_parameters
from bayesprune.infer.effective_parameters import degrees_of_freedom
from bayesprune.infer.targets import WeightedTargets
from bayesprune.training import Settings, fit
from tests.training.problems import Batches


def ridge_trace(x: Tensor, scales: Tensor, noise: float, ridge: float) -> float:
    """tr X (XᵀX + ρ σ² S⁻²)⁻¹ Xᵀ, with a column of ones for the bias."""
    design = torch.cat([x, torch.ones(len(x), 1).to(x)], 1)
    penalty = ridge * noise**2 * scales.square().reciprocal().diag()
    return float(torch.trace(design @ torch.linalg.solve(design.T @ design + penalty, design.T)))


def taken(*args: Any, **kwargs: Any) -> float:
    """The trace alone."""
    return degrees_of_freedom(*args, **kwargs)[0]


def linear(inputs: int, outputs: int = 1) -> nn.Linear:
    return nn.Linear(inputs, outputs).double()


@pytest.mark.parametrize("ridge", [1.0, 0.1])
@pytest.mark.parametrize("rows", [4, 40])
def test_a_linear_model_is_ridge_regression(rows: int, ridge: float) -> None:
    x, scales = torch.randn(rows, 7).double(), torch.linspace(0.1, 1.0, 8).double()
    found = taken(linear(7), x, {"weight": scales[None, :7], "bias": scales[7]}, torch.tensor(0.8).double(), ridge)
    assert found == pytest.approx(ridge_trace(x, scales, 0.8, ridge), rel=1e-5)
    assert found < min(rows, 8)


def test_outputs_add_up_each_with_its_noise() -> None:
    x, scales = torch.randn(30, 4).double(), torch.full((5,), 0.7).double()
    noise = torch.tensor([0.3, 2.0]).double()
    one = torch.tensor(0.7).double()
    found = taken(linear(4, 2), x, {"weight": one, "bias": one}, noise)
    assert found == pytest.approx(sum(ridge_trace(x, scales, float(n), 1.0) for n in noise), rel=1e-5)


def test_weights_that_do_the_same_count_once() -> None:
    """Two equal inputs of scale s are one of scale √2 s; parameters that are not named are known."""
    x, one = torch.randn(30, 3).double(), torch.tensor(1.0).double()
    twice = taken(linear(6), torch.cat([x, x], 1), {"weight": one}, one)
    once = taken(linear(3), x, {"weight": one * math.sqrt(2)}, one)
    assert twice == pytest.approx(once, rel=1e-9) and twice < 3
    _, alone = degrees_of_freedom(linear(6), torch.cat([x, x], 1), {"weight": one}, one)
    squares = x.square().sum(0)
    assert alone == pytest.approx(float(2 * (squares / (squares + 1)).sum()), rel=1e-9)


def test_a_sample_stands_for_all_examples() -> None:
    """Of data that repeat themselves one part tells all."""
    x, one = torch.randn(20, 3).double(), torch.tensor(1.0).double()
    whole = taken(linear(3), x.repeat(5, 1), {"weight": one}, one)
    assert taken(linear(3), x, {"weight": one}, one, num_data=100) == pytest.approx(whole, rel=1e-9)


def test_an_example_of_weight_two_is_one_that_comes_twice() -> None:
    x, one = torch.randn(6, 3).double(), torch.tensor(1.0).double()
    weights = torch.tensor([2.0, 1, 0, 3, 1, 1]).double()
    found = taken(linear(3), x, {"weight": one}, one, weights=weights)
    assert found == pytest.approx(
        taken(linear(3), x.repeat_interleave(weights.long(), 0), {"weight": one}, one), rel=1e-9
    )


def test_a_network_is_linear_in_its_weights_where_it_is() -> None:
    """J by central differences, for a network with gates, a branch and normalisation, whose mode decides."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layers.Gate(4), layers.Linear(4, 5, gate="unit"), nn.BatchNorm1d(5), nn.Tanh(),
        layers.Residual(nn.Linear(5, 5)), nn.Linear(5, 1),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        net[1].gate.theta[2] = 0.1
    x, names = torch.randn(12, 4).double(), ("1.weight", "4.body.bias", "5.weight")
    parameters = dict(net.named_parameters())
    columns = []
    with torch.no_grad():
        for p in map(parameters.get, names):
            for entry in p.view(-1).split(1):
                entry += 1e-5
                above = net(x)
                entry -= 2e-5
                columns.append((above - net(x)) / 2e-5)
                entry += 1e-5
    table = torch.cat(columns, 1)
    expected = torch.trace(table @ table.T @ torch.linalg.inv(table @ table.T + 0.25 * torch.eye(12).double()))
    one = torch.tensor(1.0).double()
    assert taken(net, x, dict.fromkeys(names, one), one, 0.25) == pytest.approx(float(expected), rel=1e-6)


def learner(likelihood: LearnedGaussian, num_data: int = 40) -> BayesianNet:
    """Three inputs, one of them with θ = ¼; σ0 = 2 and σ half of that."""
    net = nn.Sequential(layers.Gate(3, theta=1.0), nn.Linear(3, 1, bias=False))
    bnn = BayesianNet(net, likelihood, num_data=num_data, slab="normal", slab_scale=2.0)
    with torch.no_grad():
        net[0].theta[1] = 0.25
        net[1].weight_log_scale.fill_(0.0)
    return bnn


def ridge(x: Tensor, share: float) -> float:
    """d of `learner`: ridge regression on the inputs that are on."""
    seen = x[:, [0, 2]].double()
    return float(torch.trace(seen @ torch.linalg.inv(seen.T @ seen + share * 0.25 / 4 * torch.eye(2)) @ seen.T))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_left_out_is_what_the_objective_does_not_count(share: float) -> None:
    """d less T Σ Θ (1 − σ²/σ0²) = T (2 + ¼) ¾."""
    bnn, x = learner(LearnedGaussian(0.5)), torch.randn(40, 3)
    bnn.train()
    y = torch.zeros(40, 1)
    found = bnn.uncounted_parameters(x, y, share)
    assert found == pytest.approx(ridge(x, share) - share * 2.25 * 0.75, rel=1e-4) and bnn.training
    weighted = WeightedTargets(y, torch.tensor([2.0, 0.0]).repeat(20))
    twice = ridge(x[::2].repeat(2, 1), share) - share * 2.25 * 0.75
    assert bnn.uncounted_parameters(x, weighted, share) == pytest.approx(twice, rel=1e-4)


def test_nothing_is_left_out_with_known_noise_or_in_too_large_a_network(monkeypatch) -> None:
    x, y = torch.randn(100, 3), torch.zeros(100, 1)
    bnn = learner(LearnedGaussian(0.5), num_data=100)
    assert bnn.uncounted_parameters(x, y, 0.5) > 0.5
    monkeypatch.setattr(effective_parameters, "ENTRIES", 3 * 64)
    first = learner(LearnedGaussian(0.5), num_data=64).uncounted_parameters(x[:64], y[:64], 0.5)
    assert bnn.uncounted_parameters(x, y, 0.5) == pytest.approx(first, rel=0.01)
    monkeypatch.setattr(effective_parameters, "ENTRIES", 3 * 63)
    assert bnn.uncounted_parameters(x, y, 0.5) == 0
    known = BayesianNet(bnn.net, "gaussian", num_data=100, slab="normal")
    monkeypatch.undo()
    assert known.uncounted_parameters(x, y, 0.5) == 0


def test_noise_at_temperature_1_is_that_of_the_exact_posterior() -> None:
    """σ² = R/(N − γ) at the fixed point of ridge regression; a mean field of inputs that are alike says 7 % more."""
    torch.manual_seed(0)
    x = torch.randn(40, 1).double() + 0.3 * torch.randn(40, 12).double()
    y = x[:, :3].sum(1, keepdim=True) + torch.randn(40, 1).double()
    squared = y.var()
    for _ in range(200):
        mean = torch.linalg.solve(x.T @ x + squared * torch.eye(12).double(), x.T @ y)
        taken = torch.trace(torch.linalg.solve(x.T @ x + squared * torch.eye(12).double(), x.T @ x))
        squared = (y - x @ mean).square().sum() / (40 - taken)
    net = nn.Sequential(layers.Gate(12, theta=1.0), nn.Linear(12, 1, bias=False)).double()
    likelihood = LearnedGaussian(float(squared.sqrt())).double()
    bnn = BayesianNet(net, likelihood, num_data=40, slab="normal", slab_scale=1.0).double()
    variances = 1 / (x.square().sum(0) / squared + 1)  # of the mean field
    with torch.no_grad():
        net[1].weight.copy_(mean.T)
        net[1].weight_log_scale.copy_(variances.log()[None] / 2)
    squares = (y - x @ mean).square().sum() + (variances * x.square()).sum()
    assert float(squares) / (40 - bnn.uncounted_parameters(x, y, 1.0)) == pytest.approx(float(squared), rel=1e-4)
    assert squares / 40 > 1.07 * squared


def test_at_temperature_1_too_few_examples_say_nothing() -> None:
    """Fewer than twice the three parameters, which could be alike; all there are, and twice as many, say what is so."""
    x = torch.ones(6, 3)
    for number, rows in ((6, 6), (40, 6), (2, 2)):
        bnn = learner(LearnedGaussian(0.5), num_data=number)
        assert bnn.uncounted_parameters(x[:rows], torch.zeros(rows, 1), 1.0) < -0.5
    assert learner(LearnedGaussian(0.5)).uncounted_parameters(x[:5], torch.zeros(5, 1), 1.0) == 0


def test_a_count_of_several_targets_is_no_count_of_each() -> None:
    """So at temperature 1 noise stays that of the mean field where every target has its own."""
    x, y = torch.ones(40, 3), torch.zeros(40, 2)
    counts = []
    for shape in ((), (2,)):
        net = nn.Sequential(layers.Gate(3, theta=1.0), nn.Linear(3, 2, bias=False))
        bnn = BayesianNet(net, LearnedGaussian(0.5, shape), num_data=40, slab="normal", slab_scale=2.0)
        torch.nn.init.zeros_(net[1].weight_log_scale)
        counts.append((bnn.uncounted_parameters(x, y, 1.0), bnn.uncounted_parameters(x, y, 0.5)))
    assert counts[0][0] < -0.5 and counts[1][0] == 0 and counts[0][1] == pytest.approx(counts[1][1]) != 0


def test_a_fit_takes_nine_tenths_of_the_residuals_at_most() -> None:
    few, x = learner(LearnedGaussian(), num_data=1), torch.tensor([[100.0, 0.0, 0.0]])
    assert few.uncounted_parameters(x, torch.zeros(1, 1), 0.1) == pytest.approx(0.9 - 0.1 * 2.25 * 0.75, rel=1e-5)


@pytest.mark.parametrize("last", [nn.Flatten(0), nn.Identity()])
def test_outputs_may_have_no_dimension_of_their_own(last: nn.Module) -> None:
    net = nn.Sequential(layers.Gate(3, theta=1.0), nn.Linear(3, 1, bias=False), last)
    bnn = BayesianNet(net, LearnedGaussian(0.5), num_data=40, slab="normal", slab_scale=2.0)
    assert 2.5 < bnn.uncounted_parameters(torch.randn(40, 3), torch.zeros(40, 1), 0.01) < 3


@pytest.mark.slow
def test_noise_of_a_cold_linear_model_is_that_of_least_squares() -> None:
    """σ² = R/(N − d), 12 of 40 degrees of freedom being taken; the cold objective alone says R/(N − d T), 28 % less."""
    torch.manual_seed(1)
    x = torch.randn(40, 12)
    y = x.sum(1, keepdim=True) + torch.randn(40, 1)
    likelihood = LearnedGaussian(1.0, prior_count=1e-3)
    net = nn.Sequential(layers.Gate(12, theta=1.0), nn.Linear(12, 1, bias=False))
    bnn = BayesianNet(net, likelihood, num_data=40, prior=FlatteningPrior(0.1), slab="normal", slab_scale=10.0)
    rest = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0, "slab_by": 0.1}
    batches = Batches(x, y)
    fit(bnn, batches, epochs=2000, settings=Settings(lr=0.03, temperature=0.1, schedule=rest))
    squares = float((y - x @ torch.linalg.lstsq(x, y).solution).square().sum())
    assert float(likelihood.noise_scale.detach()) ** 2 == pytest.approx(squares / 28, rel=0.03)
