"""Counts: losses and predictions against torch and scipy, and a fit that finds the inputs that matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet
from bayesprune.infer.likelihoods import get_likelihood
from bayesprune.infer.likelihoods.counts import CountPrediction
from bayesprune.infer.likelihoods.poisson import Poisson

RATES = torch.tensor([[[0.3, 2.0], [9.0, 400.0]], [[0.8, 2.0], [14.0, 350.0]], [[0.1, 3.0], [11.0, 1e-30]]])
COUNTS = torch.tensor([[0, 3], [12, 377]])


def predicted() -> CountPrediction:
    return CountPrediction(RATES.mean(0), RATES)


def test_it_is_known_by_name() -> None:
    assert type(get_likelihood("poisson")) is Poisson


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_loss_is_minus_the_log_probability(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    outputs, y = RATES[0].double().log().view(shape), COUNTS.view(shape).to(dtype)
    likelihood = Poisson()
    log_probs = stats.poisson.logpmf(COUNTS.view(shape).numpy(), RATES[0].view(shape).double().numpy())
    expected = torch.from_numpy(log_probs.reshape(len(y), -1).sum(1))
    torch.testing.assert_close(-likelihood.nll(outputs, y), expected)
    law = likelihood.distribution(outputs)
    torch.testing.assert_close(law.log_prob(likelihood.observed(y)), expected, rtol=1e-5, atol=1e-5)
    assert law.batch_shape == (len(y),) and likelihood.target_shape(outputs) == y.shape[1:]


def test_short_formats_of_outputs_keep_every_count() -> None:
    outputs, y = torch.tensor([5.5, 5.75], dtype=torch.bfloat16), torch.tensor([257, 301])
    expected = stats.poisson.logpmf(y.numpy(), np.exp([5.5, 5.75]))
    torch.testing.assert_close(-Poisson().nll(outputs, y).double(), torch.from_numpy(expected), rtol=1e-4, atol=0)


def test_moments_are_those_of_the_mixture() -> None:
    prediction = predicted()
    rates = RATES.double().numpy()
    first, second = rates.mean(0), (rates + rates**2).mean(0)
    torch.testing.assert_close(prediction.mean.double(), torch.from_numpy(first), rtol=1e-6, atol=0)
    torch.testing.assert_close(prediction.variance.double(), torch.from_numpy(second - first**2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95, 0.999999])
def test_bounds_are_quantiles_of_the_mixture(level: float) -> None:
    low, high = predicted().interval(level)
    counts = np.arange(1000)[:, None, None]
    below = stats.poisson.cdf(counts[None], RATES.double().numpy()[:, None]).mean(0)
    for bound, p in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
        assert bound.tolist() == (below >= p).argmax(0).tolist()


@pytest.mark.parametrize("rate", [1e-8, 1.0, 30.0, 1e4, 1e7])
def test_bounds_of_one_rate_are_those_of_scipy(rate: float) -> None:
    low, high = CountPrediction(torch.tensor([rate]), torch.tensor([[rate]])).interval(0.9)
    assert (low.item(), high.item()) == tuple(stats.poisson.interval(0.9, rate))


def test_of_rate_zero_there_is_nothing_to_count() -> None:
    low, high = CountPrediction(torch.zeros(1), torch.zeros(2, 1)).interval()
    assert (low.item(), high.item()) == (0.0, 0.0) and not low.signbit().any()  # -0.0 would be printed as such


def test_the_log_probability_is_that_of_the_mixture() -> None:
    each = stats.poisson.logpmf(COUNTS.numpy(), RATES.double().numpy()).sum(2)
    expected = torch.from_numpy(np.log(np.exp(each - each.max(0)).mean(0)) + each.max(0)).float()
    torch.testing.assert_close(predicted().log_prob(COUNTS), expected, rtol=1e-5, atol=1e-5)
    single = CountPrediction(RATES[0, 0], RATES[:1, 0])
    torch.testing.assert_close(single.log_prob(COUNTS[0]), torch.tensor([-0.3, np.log(8 / 6) - 2]).float())


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="interval: level"):
        predicted().interval(level)


@pytest.mark.parametrize(("y", "found"), [([-1.0], "found -1.0"), ([0.5], "found 0.5"), ([-3], "found -3")])
def test_targets_that_are_no_counts_are_refused(y: list, found: str) -> None:
    likelihood, outputs = Poisson(), torch.zeros(1)
    assert likelihood.possible(outputs, torch.tensor(y)).tolist() == [False]
    with pytest.raises(DataError, match=found):
        likelihood.check(outputs, torch.tensor(y))
    likelihood.check(outputs, torch.tensor([3]))
    assert likelihood.possible(outputs, torch.tensor([math.nan, math.inf, 0.0])).tolist() == [False, False, True]
    with pytest.raises(DataError, match=r"y\[:, None\]"):
        likelihood.check(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(DataError, match="count likelihood: targets have shape"):
        predicted().log_prob(COUNTS[0])


@pytest.fixture(scope="module")
def fitted() -> tuple[BayesianNet, Tensor, Tensor]:
    """A network fitted to counts of which inputs 0 and 1 tell, 2 to 5 do not; inputs and true rates."""
    torch.manual_seed(0)
    x = torch.randn(512, 6)
    rates = (0.8 * x[:, :1] - 0.6 * x[:, 1:2]).exp()
    net = nn.Sequential(layers.Gate(6), nn.Linear(6, 1))
    bnn = BayesianNet(net, "poisson", num_data=512, prior=FlatteningPrior(4.0), weights="normal")
    settings = bp.training.Settings(lr=2e-2, schedule={"sample_from": 0.2})
    data = DataLoader(TensorDataset(x, torch.poisson(rates)), batch_size=64)
    bp.fit(bnn, data, epochs=40, prune=False, settings=settings)
    return bnn, x, rates


def test_a_fit_keeps_the_inputs_that_matter(fitted: tuple[BayesianNet, Tensor, Tensor]) -> None:
    bnn, _, _ = fitted
    assert (bnn.gate_probs()["0"] > 0.5).tolist() == [True, True, False, False, False, False]
    slopes = bnn.net[1].weight.detach()[0, :2]
    torch.testing.assert_close(slopes, torch.tensor([0.8, -0.6]), atol=0.1, rtol=0)


def test_a_network_predicts_means_and_intervals(fitted: tuple[BayesianNet, Tensor, Tensor]) -> None:
    bnn, _, _ = fitted
    torch.manual_seed(1)
    x = torch.randn(2000, 6)
    rates = (0.8 * x[:, :1] - 0.6 * x[:, 1:2]).exp()
    y = torch.poisson(rates)
    prediction = bnn.predict(x, 32)
    assert isinstance(prediction, CountPrediction)
    low, high = prediction.interval(0.9)
    within = ((low <= y) & (y <= high)).float().mean()
    assert 0.9 <= within <= 0.97  # more than 0.9, since counts are whole
    truth = torch.distributions.Poisson(rates).log_prob(y).mean()
    assert float(truth) - 0.02 < float(prediction.log_prob(y).mean()) <= float(truth) + 0.005
