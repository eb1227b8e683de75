"""Networks on tables in any units: what is found, predicted, saved and said of the noise does not depend on them."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.distributions import FixedInclusion
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, LearnedGaussian, Likelihood, Prediction

torch.manual_seed(0)
X = torch.randn(60, 4)
Y = X[:, :1] - 0.5 * X[:, 1:2] + 0.3 * torch.randn(60, 1)
NEW = torch.randn(20, 4)
TENFOLD, ALL = (0.1, 0.0, 10.0, 0.0), (1e3, 300.0, 1e-3, 0.05)


def network(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(layers.Gate(4), layers.Linear(4, 6, gate="unit"), nn.Tanh(), nn.Linear(6, outputs))


def fitted(likelihood: str | Likelihood, x: Tensor, y: Tensor, outputs: int = 1) -> BayesianNet:
    """A short run, some of it at rest, some of it with gates that move."""
    parts = bp.standardised(network(outputs), likelihood, x, y)
    bnn = BayesianNet(*parts, num_data=60, prior=FixedInclusion(0.5), weights="normal")
    data = DataLoader(TensorDataset(x, y), batch_size=20)
    bp.fit(bnn, data, epochs=8, prune=False, settings=bp.training.Settings(lr=0.1, temperature=0.3), progress=False)
    return bnn


@cache
def as_they_are(name: str, outputs: int) -> BayesianNet:
    return fitted(name, X, Y, outputs)


def predicted(bnn: BayesianNet, x: Tensor) -> Prediction:
    torch.manual_seed(2)
    return bnn.predict(x, 8)


@pytest.mark.parametrize(
    ("name", "change"),
    [("learned_gaussian", TENFOLD), ("learned_gaussian", ALL), ("student_t", ALL), ("heteroscedastic", ALL)],
)
def test_units_change_nothing_but_units(name: str, change: tuple[float, float, float, float]) -> None:
    """Of inputs (x · by + shift) and of targets (y · times + plus)."""
    outputs = 2 if name == "heteroscedastic" else 1
    by, shift, times, plus = change
    one, other = as_they_are(name, outputs), fitted(name, X * by + shift, Y * times + plus, outputs)
    for before, after in zip(one.gate_probs().values(), other.gate_probs().values(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-3, rtol=0)
    here, there = predicted(one, NEW), predicted(other, NEW * by + shift)
    tolerance = {"atol": 2e-3, "rtol": 2e-3}
    torch.testing.assert_close((there.mean - plus) / times, here.mean, **tolerance)
    torch.testing.assert_close((there.interval(0.9)[1] - plus) / times, here.interval(0.9)[1], **tolerance)
    y = here.mean + 0.2
    densities = there.log_prob(y * times + plus) + torch.tensor(times).log(), here.log_prob(y)
    torch.testing.assert_close(*densities, **tolerance)
    if name != "heteroscedastic":
        torch.testing.assert_close(other.likelihood.noise_scale / times, one.likelihood.noise_scale, **tolerance)


def test_units_travel_with_the_network_and_its_files(tmp_path: Path) -> None:
    x, y = 1e3 * X + 300, 1e-2 * Y + 5
    bnn = fitted("learned_gaussian", x, y).eval()
    with torch.no_grad():
        bnn.theta[[1, 5]] = 0.0
        bnn.theta[[0, 4]] = 1.0
    expected = bnn.net(x).detach()
    assert 4.9 < expected.mean() < 5.1
    small = bp.compact(bnn)
    bp.save(small, tmp_path / "small.safetensors")
    torch.testing.assert_close(bp.load(tmp_path / "small.safetensors")(x), expected)
    posterior = bp.compact(bnn, posterior=True)
    assert posterior.likelihood.noise_scale == bnn.likelihood.noise_scale < 0.02
    torch.testing.assert_close(posterior.net(x), expected)
    exact = bnn.double()
    torch.testing.assert_close(bp.compact(exact)(x.double()), exact.net(x.double()), rtol=1e-12, atol=0)
    again = BayesianNet(*bp.standardised(network(), "learned_gaussian", X, Y), num_data=60, weights="normal").double()
    again.load_state_dict(exact.state_dict())
    torch.testing.assert_close(again.likelihood.noise_scale, exact.likelihood.noise_scale)
    torch.testing.assert_close(again.eval().net(x.double()), exact.net(x.double()))


def test_every_target_has_units_of_its_own() -> None:
    y = torch.cat((Y, 100 * Y - 7), 1)
    net, likelihood = bp.standardised(network(2), LearnedGaussian(0.5), X, y)
    torch.testing.assert_close(likelihood.noise_scale.detach(), 0.5 * y.std(0, correction=0))
    torch.testing.assert_close(net.units(torch.zeros(1, 2))[0], y.mean(0))


def test_what_is_given_stays_and_what_has_no_units_gets_none() -> None:
    net, given = network(3), LearnedGaussian()
    parts, likelihood = bp.standardised(net, given, X, Y)
    assert parts.network is net and likelihood is not given and float(given.unit) == 1
    assert bp.standardised(copy.deepcopy(net), bp.infer.Gaussian(0.3), X, Y)[1].noise_scale == 0.3
    logits, _ = bp.standardised(net, "categorical", X, torch.arange(60) % 3)
    assert list(dict(logits.named_children())) == ["standardise", "network"]
    counts, _ = bp.standardised(network(), "poisson", X, torch.full((60, 1), 20))
    assert 10 < counts(X).exp().mean() < 40


def test_constant_columns_become_0() -> None:
    x = torch.cat((X, torch.full((60, 1), 0.1), torch.full((60, 1), 1e6)), 1)
    seen = bp.standardised(nn.Identity(), "learned_gaussian", x, Y)[0].standardise(x)
    torch.testing.assert_close(seen[:, :4].var(0, correction=0), torch.ones(4))
    assert seen[:, 4:].abs().max() == 0
    assert bp.standardised(network(), "gaussian", X, torch.ones(60, 1))[0].units.scale.tolist() == [1]


def test_what_cannot_be_standardised_is_refused() -> None:
    with pytest.raises(DataError, match="expected a table of shape"):
        bp.standardised(network(), "gaussian", X[:5], Y)
    with pytest.raises(DataError, match="inputs: expected finite inputs"):
        bp.standardised(network(), "gaussian", X / 0, Y)
    with pytest.raises(DataError, match="targets: expected finite inputs"):
        bp.standardised(network(), "gaussian", X, Y.log())
    for scale in (torch.zeros(2), torch.ones(3)):
        with pytest.raises(ConfigError, match="Standardise: location and scale must be finite, of one shape"):
            layers.Standardise(torch.zeros(2), scale)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_what_is_no_count_is_refused_before_its_logarithm(likelihood: str) -> None:
    with pytest.raises(DataError, match=f"^{likelihood} likelihood: targets must be counts .* found -1;"):
        bp.standardised(network(), likelihood, X, -torch.ones(60, 1))


def test_a_constant_column_stays_unread_whatever_comes() -> None:
    """Also where float64 does not hold the mean of equal numbers."""
    x = torch.cat((X, torch.full((60, 1), 1.7e18)), 1).double()
    net, _ = bp.standardised(nn.Linear(5, 1).double(), "gaussian", x, Y.double())
    first = net.standardise(x)
    assert first[:, 4].abs().max() == 0 and float(first[:, :4].square().mean().detach()) == pytest.approx(1)
    later = torch.cat((x[:, :4], torch.randn(60, 1).double()), 1)
    torch.testing.assert_close(net(later), net(x), rtol=1e-9, atol=1e-9)
