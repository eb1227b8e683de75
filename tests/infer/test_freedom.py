"""How many parameters a fit takes: against the algebra of ridge regression, and what the noise makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BayesianNet, LearnedGaussian, Weighted, freedom
from bayesprune.infer.freedom import degrees_of_freedom
from bayesprune.training import Settings, fit
from tests.training.problems import Batches


def ridge_trace(x: Tensor, scales: Tensor, noise: float, ridge: float) -> float:
    """tr X (XᵀX + ρ σ² S⁻²)⁻¹ Xᵀ, with a column of ones for the bias."""
    design = torch.cat([x, torch.ones(len(x), 1).to(x)], 1)
    penalty = ridge * noise**2 * scales.square().reciprocal().diag()
    return float(torch.trace(design @ torch.linalg.solve(design.T @ design + penalty, design.T)))


def linear(inputs: int, outputs: int = 1) -> nn.Linear:
    return nn.Linear(inputs, outputs).double()


@pytest.mark.parametrize("ridge", [1.0, 0.1])
@pytest.mark.parametrize("rows", [4, 40])
def test_a_linear_model_is_ridge_regression(rows: int, ridge: float) -> None:
    x, scales = torch.randn(rows, 7).double(), torch.linspace(0.1, 1.0, 8).double()
    found = degrees_of_freedom(
        linear(7), x, {"weight": scales[None, :7], "bias": scales[7]}, torch.tensor(0.8).double(), ridge
    )
    assert found == pytest.approx(ridge_trace(x, scales, 0.8, ridge), rel=1e-5)
    assert found < min(rows, 8)


def test_outputs_add_up_each_with_its_noise() -> None:
    x, scales = torch.randn(30, 4).double(), torch.full((5,), 0.7).double()
    noise = torch.tensor([0.3, 2.0]).double()
    one = torch.tensor(0.7).double()
    found = degrees_of_freedom(linear(4, 2), x, {"weight": one, "bias": one}, noise)
    assert found == pytest.approx(sum(ridge_trace(x, scales, float(n), 1.0) for n in noise), rel=1e-5)


def test_weights_that_do_the_same_count_once() -> None:
    """Two equal inputs of scale s are one of scale √2 s; parameters that are not named are known."""
    x, one = torch.randn(30, 3).double(), torch.tensor(1.0).double()
    twice = degrees_of_freedom(linear(6), torch.cat([x, x], 1), {"weight": one}, one)
    once = degrees_of_freedom(linear(3), x, {"weight": one * math.sqrt(2)}, one)
    assert twice == pytest.approx(once, rel=1e-9) and twice < 3


def test_a_sample_stands_for_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data that repeat themselves one part tells all; of more than there is memory for the first are taken."""
    x, one = torch.randn(20, 3).double(), torch.tensor(1.0).double()
    whole = degrees_of_freedom(linear(3), x.repeat(5, 1), {"weight": one}, one)
    assert degrees_of_freedom(linear(3), x, {"weight": one}, one, num_data=100) == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr(freedom, "ENTRIES", 3 * 20)
    assert degrees_of_freedom(linear(3), x.repeat(5, 1), {"weight": one}, one, num_data=100) == pytest.approx(whole)


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
    assert degrees_of_freedom(net, x, dict.fromkeys(names, one), one, 0.25) == pytest.approx(float(expected), rel=1e-6)


def learner(likelihood: LearnedGaussian | Weighted, num_data: int = 40) -> BayesianNet:
    """Three inputs, one of them with θ = ¼; σ0 = 2 and σ half of that."""
    net = nn.Sequential(layers.Gate(3, theta=1.0), nn.Linear(3, 1, bias=False))
    bnn = BayesianNet(net, likelihood, num_data=num_data, slab="normal", slab_scale=2.0)
    with torch.no_grad():
        net[0].theta[1] = 0.25
        net[1].weight_log_scale.fill_(0.0)
    return bnn


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_cold_posterior_hands_on_what_the_objective_does_not_count(share: float) -> None:
    """d of ridge regression on the inputs that are on, less T Σ Θ (1 − σ²/σ0²) = T (2 + ¼) ¾; nothing for T = 1."""
    bnn, x = learner(LearnedGaussian(0.5)), torch.randn(40, 3)
    bnn.train()
    bnn.spend(x, share)
    seen = x[:, [0, 2]].double()
    ridge = share * 0.25 / 4 * torch.eye(2)
    d = float(torch.trace(seen @ torch.linalg.inv(seen.T @ seen + ridge) @ seen.T))
    expected = 0.0 if share == 1 else d - share * 2.25 * 0.75
    assert bnn.spent == pytest.approx(expected, rel=1e-4) and bnn.training
    weighted = learner(Weighted(LearnedGaussian(0.5)))
    weighted.spend(x, share)
    assert weighted.spent == bnn.spent


def test_nothing_is_spent_on_noise_that_is_known_and_never_all_residuals() -> None:
    known = learner(LearnedGaussian())
    known.likelihood = BayesianNet(nn.Sequential(layers.Gate(1)), "gaussian", num_data=1).likelihood
    known.spend(torch.randn(40, 3), 0.1)
    assert known.spent == 0
    few = learner(LearnedGaussian(), num_data=1)
    few.spend(torch.tensor([[100.0, 0.0, 0.0]]), 0.1)
    assert few.spent == pytest.approx(1 - 0.1 * 2.25 * 0.75, abs=1e-3)
    few.spend(torch.tensor([[100.0, 0.0, 0.0]]), 1e-6)
    assert few.spent == 0.9


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
