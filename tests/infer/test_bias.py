"""How far the estimators of a slope are off where their conditions do not hold: the figures of the method page."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, estimators, get_estimator
from tests.infer.verify import all_gates


def bayesian(net: nn.Module, scale: float = 1.0) -> BayesianNet:
    """In training mode, all θ = ½, prices next to nothing."""
    bnn = BayesianNet(net, num_data=50, prior=FlatteningPrior(torch.tensor(1e-6))).double().train()
    with torch.no_grad():
        bnn.theta.fill_(0.5)
        for weight in bnn.weights().values():
            weight.mul_(scale)
    return bnn


def normalised(units: int) -> nn.Module:
    """A BatchNorm behind gated units: the loss of an example depends on the gates of the others."""
    return nn.Sequential(
        layers.Linear(2, units, gate="unit"), nn.ReLU(), nn.Linear(units, 3), nn.BatchNorm1d(3), nn.ReLU(),
        nn.Linear(3, 2),
    )  # fmt: skip


def estimated(estimator: str, bnn: BayesianNet, x: Tensor, y: Tensor, xi: Tensor) -> Tensor:
    """The estimate at these gates; of `paired` its mean over the gate that it visits."""
    visits = bnn.num_gates if estimator == "paired" else 1
    total = torch.zeros(bnn.num_gates).double()
    for s in range(visits):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(estimators, "_choose", lambda objective, count, s=s: s)
            loss = get_estimator(estimator)(BatchObjective(bnn, x, y), bnn.theta, xi, 0 * bnn.price)
        total += torch.autograd.grad(loss, bnn.theta)[0] / visits
    return total


BATCH_OF_3 = {"paired": (0.110, -0.040), "disarm": (0.110, -0.040), "second_order": (-0.411, -0.734)}


@pytest.mark.parametrize("estimator", BATCH_OF_3)
def test_a_batchnorm_in_training_mode_behind_unit_gates_biases_every_estimator(estimator: str) -> None:
    """Exact: all 2^6 gates of a batch of 3, whose loss has the slopes −0.062 and −0.101."""
    torch.manual_seed(3)
    bnn, x, y = bayesian(normalised(2)), torch.randn(3, 2).double(), torch.arange(3) % 2
    draws = torch.tensor(list(product((0.0, 1.0), repeat=6))).double().view(-1, 3, 2)
    with torch.no_grad(), bnn.frozen_statistics():
        losses = torch.stack([bnn.likelihood.nll(bnn(x, xi), y).mean() for xi in draws])
    score = (4 * draws - 2).sum(1)  # of the law of the draw, at θ = ½
    slopes = (score * losses[:, None]).mean(0)
    found = torch.stack([estimated(estimator, bnn, x, y, xi) for xi in draws]).mean(0)
    torch.testing.assert_close(slopes, torch.tensor([-0.062, -0.101]).double(), rtol=0, atol=5e-4)
    torch.testing.assert_close(found, torch.tensor(BATCH_OF_3[estimator]).double(), rtol=0, atol=5e-4)


@pytest.mark.slow
@pytest.mark.statistical
def test_in_a_batch_of_64_second_order_has_the_least_bias() -> None:
    """Against flips of single examples' gates, which are unbiased; 4 standard errors, 6e-5 an entry."""
    torch.manual_seed(3)
    bnn, x, y = bayesian(normalised(10)), torch.randn(64, 2).double(), torch.arange(64) % 2
    slopes, found = [], {name: [] for name in BATCH_OF_3}
    for _ in range(40):
        xi = torch.bernoulli(torch.full((64, 10), 0.5)).double()
        slopes.append(single_flips(bnn, x, y, xi))
        for name, estimates in found.items():
            estimates.append(estimated(name, bnn, x, y, xi))
    bias, error = {}, {}
    for name, estimates in found.items():
        difference = torch.stack(estimates) - torch.stack(slopes)
        bias[name], error[name] = difference.mean(0), 4 * difference.std(0) / len(slopes) ** 0.5
    largest = torch.stack(slopes).mean(0).abs().max()
    assert 0.01 < float(largest) < 0.04
    for name in ("paired", "disarm"):
        worst = bias[name].abs().argmax()
        assert float(bias[name][worst].abs() - error[name][worst]) > 0.02
    assert bool((bias["second_order"].abs() < 0.01 + error["second_order"]).all())


@torch.no_grad()
def single_flips(bnn: BayesianNet, x: Tensor, y: Tensor, xi: Tensor) -> Tensor:
    """Σ over examples of the loss with their gate s on, less that with it off, the others as in ξ, shape ``(S,)``."""
    with bnn.frozen_statistics():
        base = bnn.likelihood.nll(bnn(x, xi), y).mean()
        slope = torch.zeros(bnn.num_gates).double()
        for row, s in product(range(len(x)), range(bnn.num_gates)):
            other = xi.clone()
            other[row, s] = 1 - other[row, s]
            slope[s] += (2 * xi[row, s] - 1) * (base - bnn.likelihood.nll(bnn(x, other), y).mean())
    return slope


def pooled() -> nn.Module:
    """Max-pooling behind a convolution that mixes gated filters: the loss has kinks between ξ_s = 0 and 1."""
    return nn.Sequential(
        layers.Conv2d(1, 4, 3, gate="unit"), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def test_second_order_may_have_the_wrong_sign_with_max_pooling_where_paired_is_right() -> None:
    """Exact, by enumeration: a slope of 0.070 is estimated as −0.113."""
    torch.manual_seed(3)
    bnn = bayesian(pooled(), scale=3.0)
    x, y, draws = torch.randn(8, 1, 8, 8).double(), torch.arange(8) % 3, all_gates(4)
    with torch.no_grad():
        losses = torch.stack([bnn.likelihood.nll(bnn(x, xi), y).mean() for xi in draws])
    slopes = ((4 * draws - 2) * losses[:, None]).mean(0)
    found = {
        estimator: torch.stack([estimated(estimator, bnn, x, y, xi[None]) for xi in draws]).mean(0)
        for estimator in ("second_order", "paired")
    }
    torch.testing.assert_close(found["paired"], slopes)
    wrong = (found["second_order"] * slopes < 0).nonzero().flatten()
    assert len(wrong) == 1
    assert [round(float(v[wrong]), 3) for v in (slopes, found["second_order"])] == [0.070, -0.113]
