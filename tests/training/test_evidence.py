"""The evidence bound of a posterior against its closed form, and what is done by it: fewer units, several starts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FixedInclusion
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet
from bayesprune.infer.likelihoods import Gaussian, LearnedGaussian, StudentT
from bayesprune.pruning import kept_gates, shrink
from bayesprune.selection import mean_field
from bayesprune.training import EvidenceBound, Settings, evidence_bound, fewer, fit_best
from bayesprune.training.evidence import bound_of_all, cost_of_absence
from bayesprune.training.fewer import fewer_units
from tests.training.problems import Batches

ROWS, NOISE, SLAB = 60, 0.5, 0.8
NOTHING = {"sample_from": 1.0, "settle_from": 1.0}


def regression(seed: int = 0) -> tuple[BayesianNet, Tensor, Tensor]:
    """Three inputs, one of which says nothing, no bias, and a prior of a third."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 3, generator=generator)
    y = x @ torch.tensor([[0.7], [-0.3], [0.0]]) + NOISE * torch.randn(ROWS, 1, generator=generator)
    net = nn.Sequential(layers.Gate(3), nn.Linear(3, 1, bias=False))
    prior = FixedInclusion(1 / 3)
    return BayesianNet(net, Gaussian(NOISE), num_data=ROWS, prior=prior, weights="normal", slab_scale=SLAB), x, y


@torch.no_grad()
def at_its_optimum() -> tuple[BayesianNet, Batches, float]:
    """The mean field of the regression as coordinate ascent finds it, and its bound in closed form."""
    net, x, y = regression()
    how = {"inclusion": 1 / 3, "slab_scale": SLAB, "noise_scale": NOISE, "intercept_scale": 0.0}
    found = mean_field(x, y[:, 0], **how)  # type: ignore[arg-type]
    net.theta.copy_(found.inclusion)
    (mean,), (log_scale,) = net.weights_posterior.means(), net.weights_posterior.log_scales()
    mean.copy_(found.mean / found.inclusion)
    log_scale.copy_(-(x.square().sum(0) / NOISE**2 + SLAB**-2).log() / 2)
    return net, Batches(x, y), found.log_evidence


@pytest.mark.statistical
def test_the_bound_is_that_of_the_mean_field() -> None:
    """Of 1024 draws; fails by chance at 6e-5. Beyond the draws nothing is left of the closed form."""
    net, loader, exact = at_its_optimum()
    found = evidence_bound(net, loader, 1024)
    assert 0 < found.error < 0.2
    assert abs(found.nats - exact) < 4 * found.error
    assert found.nats > evidence_bound(regression()[0], loader, 64).nats + 10  # as it was built


def test_at_another_temperature_the_divergence_counts_as_in_training() -> None:
    net, loader, _ = at_its_optimum()
    nats = []
    for temperature in (1.0, 0.25):
        torch.manual_seed(3)
        nats.append(evidence_bound(net, loader, 2, temperature=temperature).nats)
    divergence = float(net.weights_posterior.divergence(net.by_gate(net.theta)).detach())
    assert divergence > 1 and nats[1] - nats[0] == pytest.approx(0.75 * divergence, rel=1e-4)


def test_a_sample_of_the_data_stands_for_all() -> None:
    """Without any draw the bound of the first half, seen twice, is that of the half, scaled to N."""
    net, x, y = regression()
    with torch.no_grad():
        net.theta.fill_(1.0)
        net.weights_posterior.log_scales()[0].fill_(-30.0)
    half = evidence_bound(net, [(x[:30], y[:30])], 2)
    twice = evidence_bound(net, [(x[:30], y[:30])] * 2, 2)
    assert half.error == pytest.approx(0, abs=1e-6) and half.nats == pytest.approx(twice.nats, rel=1e-5)
    residuals = (y[:30] - net(x[:30])).square().sum() / NOISE**2 / 2
    data = 2 * float(residuals.detach()) + ROWS * (math.log(NOISE) + math.log(2 * math.pi) / 2)
    divergence = float(net.weights_posterior.divergence(net.by_gate(net.theta)).detach())
    assert half.nats == pytest.approx(-data - divergence - 3 * math.log(3), rel=1e-4)


@torch.no_grad()
def test_units_that_were_removed_count_as_units_that_are_off() -> None:
    """Each costs -log(1 - λ), so that leaving them out is worth nothing."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 3, generator=generator)
    net = nn.Sequential(layers.Linear(3, 8, gate="unit", theta=1.0), nn.ReLU(), nn.Linear(8, 1))
    prior = FixedInclusion(torch.linspace(0.2, 0.8, 8))
    bnn = BayesianNet(net, Gaussian(1.0), num_data=40, prior=prior, weights="normal", slab_scale=1.0)
    for log_scale in bnn.weights_posterior.log_scales():
        log_scale.fill_(-20.0)
    bnn.theta[2:] = 0.0
    loader, absence = [(x, x[:, :1])], cost_of_absence(bnn)
    before = evidence_bound(bnn, loader, 2)
    assert bound_of_all(bnn, loader, 1.0, absence).nats == pytest.approx(before.nats, abs=1e-3)
    smaller, index = shrink(bnn.net, {"0": torch.arange(8) >= 2}, example_input=x[:1])
    bnn.replace(smaller, kept_gates(bnn.net, index))
    assert bnn.num_gates == 2
    assert bound_of_all(bnn, loader, 1.0, absence).nats == pytest.approx(before.nats, abs=1e-3)
    lost = -torch.log1p(-torch.linspace(0.2, 0.8, 8))[2:].sum()
    assert evidence_bound(bnn, loader, 2).nats == pytest.approx(before.nats + float(lost), abs=1e-3)


@pytest.mark.parametrize("likelihood", [LearnedGaussian(0.7), StudentT(0.7)])
def test_what_corrects_the_noise_of_cold_training_is_no_evidence(likelihood: LearnedGaussian) -> None:
    net, x, y = regression()
    cold = BayesianNet(net.net, likelihood, num_data=ROWS, prior=FixedInclusion(1 / 3), weights="normal")
    bounds = []
    for fitted_parameters in (0.0, 20.0):
        likelihood.set_fitted_parameters(fitted_parameters)
        torch.manual_seed(6)
        bounds.append(evidence_bound(cold, [(x, y)], 2))
    assert float(likelihood.correction().detach()) == pytest.approx(-20 * math.log(0.7), rel=1e-5)
    assert bounds[1].nats == pytest.approx(bounds[0].nats, abs=1e-3)


def test_bad_arguments_are_refused() -> None:
    net, x, y = regression()
    with pytest.raises(ConfigError, match="evidence_bound: num_samples must be a whole number, at least 2, got 1"):
        evidence_bound(net, [(x, y)], 1)
    with pytest.raises(DataError, match="the loader gave no batch"):
        evidence_bound(net, [])
    with pytest.raises(ConfigError, match="fit_best: expected at least one start"):
        fit_best([], [(x, y)], epochs=1, settings=Settings())
    points = BayesianNet(nn.Sequential(layers.Gate(3), nn.Linear(3, 1)), Gaussian(NOISE), num_data=ROWS)
    with pytest.raises(ConfigError, match="Normal weights alone; pass fewer=False"):
        fit_best([points], [(x, y)], epochs=1, settings=Settings())


# fewer units ---------------------------------------------------------------------------------------------------------


def hinges(units: int, signs: Callable[[int], float]) -> tuple[BayesianNet, list[tuple[Tensor, Tensor]]]:
    """A function of one input that is made of hinges at 0, by so many units of equal shares, nearly sure of them."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(ROWS, 1, generator=generator)
    net = nn.Sequential(layers.Linear(1, units, gate="unit", theta=1.0), nn.ReLU(), nn.Linear(units, 1))
    sides = torch.tensor([signs(unit) for unit in range(units)])
    with torch.no_grad():
        net[0].weight.copy_(sides[:, None])
        net[2].weight.copy_(1 / torch.stack([(sides == side).sum() for side in sides])[None])
        for bias in (net[0].bias, net[2].bias):
            bias.zero_()
        y = net(x) + 0.1 * torch.randn(ROWS, 1, generator=generator)
    prior = FixedInclusion(0.5)
    bnn = BayesianNet(net, Gaussian(0.1), num_data=ROWS, prior=prior, weights="normal", slab_scale=1.0)
    with torch.no_grad():
        for log_scale in bnn.weights_posterior.log_scales():
            log_scale.fill_(-4.0)
    return bnn, [(x, y)]


def test_copies_of_a_unit_become_one() -> None:
    """Each is needed beside the others, but not by the function that they make."""
    bnn, loader = hinges(4, lambda unit: 1.0)
    before = evidence_bound(bnn, loader).nats
    x, y = loader[0]
    trials = fewer_units(bnn, loader, epochs=60, settings=Settings(lr=0.05, every=1))
    assert [left for left, _ in trials] == [2, 1] and all(gain > 0 for _, gain in trials)
    assert bnn.num_gates == 1 and bnn.net[0].weight.shape == (1, 1)
    assert evidence_bound(bnn, loader).nats > before
    assert float((bnn.predict(x, 0).mean - y).square().mean().sqrt()) < 0.15


def test_what_the_bound_does_not_prefer_is_undone() -> None:
    bnn, loader = hinges(2, lambda unit: 1.0 if unit else -1.0)
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    trials = fewer_units(bnn, loader, epochs=2, settings=Settings(lr=0.05, every=1))
    assert len(trials) == 1 and trials[0][0] == 1 and trials[0][1] < 0
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("gain", "left"), [(0.7, 2), (0.9, 1)])
def test_a_bound_that_is_better_within_its_error_is_no_reason(
    gain: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two errors of 0.3 nats make one of 0.42, of which it takes two."""
    bnn, loader = hinges(2, lambda unit: 1.0)
    bounds = iter([EvidenceBound(-100.0, 0.3), EvidenceBound(-100.0 + gain, 0.3)])
    monkeypatch.setattr(fewer, "bound_of_all", lambda *_: next(bounds))
    trials = fewer_units(bnn, loader, epochs=1, settings=Settings(lr=0.05, every=1))
    assert trials == [(1, pytest.approx(gain))] and bnn.num_gates == left


# several starts ------------------------------------------------------------------------------------------------------


def test_the_start_with_the_highest_bound_is_taken() -> None:
    starts = [regression(), regression()]
    _, x, y = starts[0]
    nets = [net for net, *_ in starts]
    with torch.no_grad():
        nets[0].net[1].weight.fill_(-3.0)  # from where two steps lead nowhere
    found = fit_best(nets, [(x, y)], epochs=2, settings=Settings(lr=0.9, schedule=NOTHING), fewer=False)
    assert found.best == 1 and found.net is nets[1] and len(found.history.rows) == 2
    assert found.bounds[1].nats > found.bounds[0].nats
    torch.testing.assert_close(torch.tensor(found.weights), torch.tensor([b.nats for b in found.bounds]).softmax(0))
    alone = fit_best(nets[:1], [(x, y)], epochs=1, settings=Settings(lr=2.0, schedule=NOTHING), fewer=False)
    assert alone.bounds == () and alone.weights == (1.0,) and alone.net is nets[0]
