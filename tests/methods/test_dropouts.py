"""Dropout that is learned, by norms, and of frequencies: laws of what is drawn, and answers known before."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from bayesprune import layers
from bayesprune.distributions.kl import log_uniform_kl
from bayesprune.errors import ConfigError
from bayesprune.graph.groups import groups
from bayesprune.infer.likelihoods import Gaussian
from bayesprune.layers import SpectralDropout
from bayesprune.methods.dropout_norms import DropoutNorms
from bayesprune.methods.sparse_vd import SparseVariationalDropout
from bayesprune.training import Settings, fit
from tests.methods.test_drawn import small
from tests.methods.toys import batches
from tests.training.problems import Batches, convolutional, examples, units

# sparse variational dropout ----------------------------------------------------------------------------------------


def exact(log_alpha: float) -> float:
    """KL(Normal(w, α w²) ‖ log-uniform) but for its constant, by quadrature: it is 0 as α → ∞."""
    root, at_infinity = math.exp(log_alpha / 2), -(math.log(2) + np.euler_gamma) / 2  # E log |e|
    ends = -12.0, max(-12.0, -1 / root), 12.0  # it is steep between
    found = sum(
        integrate.quad(lambda e: stats.norm.pdf(e) * math.log(abs(1 + root * e)), low, high, limit=200)[0]
        for low, high in itertools.pairwise(ends)
        if low < high
    )
    return found - 0.5 * log_alpha - at_infinity


@pytest.mark.parametrize("log_alpha", [-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 6.0])
def test_the_divergence_is_that_of_quadrature_to_a_hundredth_of_a_nat(log_alpha: float) -> None:
    found = float(log_uniform_kl(torch.tensor(log_alpha, dtype=torch.float64)))
    assert found == pytest.approx(exact(log_alpha), abs=1e-2)


def test_the_divergence_falls_to_0_with_more_noise() -> None:
    values = log_uniform_kl(torch.linspace(-8, 40, 500, dtype=torch.float64))
    assert bool((values.diff() < 1e-12).all()) and float(values[-1]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("make", [units, convolutional])
def test_outputs_have_the_mean_and_the_variance_of_their_weights(make: Any) -> None:
    """4,000 draws of every output of a layer: means within 5 standard errors, variances within 12 %."""
    torch.manual_seed(0)
    net = make()
    place = {"units": 1, "convolutional": 0}[make.__name__]
    layer, method = net[place], SparseVariationalDropout()
    x = torch.randn(2, 1, 8) if make is convolutional else torch.randn(2, 8)
    run: Any = SimpleNamespace(phase=SimpleNamespace(name="train"), net=SimpleNamespace(net=net))
    from bayesprune.training.views import sites_of

    (site,) = (s for s in sites_of(net) if s.layer is layer and s.kind == "weight")
    method._sites, sigma = [site], torch.rand(layer.weight.shape) + 0.1
    method.slow = nn.ParameterList([2 * sigma.log() / method.rate])
    many = x.repeat_interleave(4000, 0)
    with torch.no_grad(), method.epoch(run):
        drawn = layer(many).unflatten(0, (2, 4000))
    with torch.no_grad():
        mean = layer(x)
        rows = nn.functional.linear if make is units else nn.functional.conv1d
        variance = rows(x.square(), sigma.square())
        if make is units:
            variance = variance * layer.gate.mode()
    assert not layer._forward_hooks
    assert bool(((drawn.mean(1) - mean).abs() <= 5 * (variance / 4000).sqrt() + 1e-3).all())
    assert bool(((drawn.var(1) - variance).abs() <= 0.12 * variance + 1e-6).all())


@pytest.mark.parametrize(("how", "zeros"), [({}, 2), ({"sparsity": 0.75}, 6), ({"threshold": 7.9}, 0)])
def test_weights_of_large_noise_go(how: dict[str, float], zeros: int) -> None:
    """Of eight weights two have log α > 3 and none more than 7.9; of each layer one stays."""
    net = nn.Sequential(nn.Linear(6, 1, bias=False), nn.Linear(1, 2, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 0.5, 0.1, 0.02, 0.015, 0.3]])
    net[1].weight.data = torch.tensor([[1.0], [0.9]])
    x = torch.randn(8, 6)
    method = SparseVariationalDropout(start=-4.5, **how)  # type: ignore[arg-type]
    fit(net, Batches(x, torch.arange(8) % 2, 4), epochs=2, method=method, settings=Settings(lr=1e-30))
    assert sum(int((layer.weight == 0).sum()) for layer in net) == zeros
    if zeros:
        assert net[0].weight[0, 3] == net[0].weight[0, 4] == 0


def test_a_network_that_can_have_no_noise_is_refused() -> None:
    net = nn.Sequential(nn.Embedding(5, 2), nn.Flatten())
    with pytest.raises(ConfigError, match="no linear or convolution layer"):
        fit(net, Batches(torch.arange(8)[:, None] % 5, torch.arange(8) % 2, 4), epochs=2, method="sparse_vd")


# dropout and norms -------------------------------------------------------------------------------------------------


def sgd(p: Any, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(p, lr=lr)


def test_the_squared_penalty_on_a_linear_network_is_ridge_regression() -> None:
    """mean (y − xw)² / 2 + l2/2 ‖w‖² is least at (XᵀX + n l2)⁻¹ Xᵀy."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1 * torch.randn(40, generator=generator)
    net = nn.Sequential(nn.Linear(4, 1, bias=False))
    method = DropoutNorms(units=0.0, l2=0.3)
    fit(net, Batches(x, y[:, None], 40), epochs=100, method=method, likelihood=Gaussian(1.0),
        settings=Settings(lr=0.5, optimizer=sgd))  # fmt: skip
    expected = torch.linalg.solve(x.T @ x + 40 * 0.3 * torch.eye(4), x.T @ y)
    torch.testing.assert_close(net[0].weight.detach()[0], expected, rtol=0, atol=1e-4)


def test_dropout_of_inputs_of_a_linear_network_is_a_ridge_in_expectation() -> None:
    """E (y − (x∘d/(1−p)) w)² = (y − xw)² + p/(1−p) Σ x_j² w_j²: 40,000 draws, within 5 standard errors."""
    torch.manual_seed(0)
    net = nn.Sequential(layers.Gate(4), nn.Linear(4, 1, bias=False))
    method, p = DropoutNorms(units=0.0, inputs=0.3), 0.3
    method.rates = {"0": p}
    site: Any = type("At", (), {"name": "0", "layer": net[0].train()})()
    run: Any = None
    x, y, w = torch.tensor([[1.0, -2.0, 0.5, 3.0]]), 0.7, net[1].weight.detach()[0]
    dropped = method.view(site, x.repeat(40_000, 1), run)
    losses = (y - dropped @ w).square()
    expected = (y - x[0] @ w).square() + p / (1 - p) * (x[0] * w).square().sum()
    assert abs(float(losses.mean() - expected)) <= 5 * float(losses.std()) / 200
    net[0].eval()
    assert torch.equal(method.view(site, x, run), x)


def test_rates_are_those_of_units_filters_and_inputs() -> None:
    method = DropoutNorms(units=0.5, filters=0.25, inputs=0.1)
    x, y = examples()
    fit(convolutional(), Batches(x[:, None], y), epochs=1, method=method, settings=Settings())
    assert method.rates == {"3": 0.25, "5": 0.5}
    fit(units(), batches(), epochs=1, method=method, settings=Settings())
    assert method.rates == {"0": 0.1, "1": 0.5}


def test_rows_are_no_longer_than_the_bound_and_the_smallest_weights_go_in_the_end() -> None:
    net = small()
    with torch.no_grad():
        net[0].weight.mul_(20)
    fit(net, batches(), epochs=1, method=DropoutNorms(max_norm=0.5, sparsity=0.25), settings=Settings())
    weights = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
    assert all(float(weight.norm(dim=1).max()) <= 0.5001 for weight in weights)
    sizes = torch.cat([weight.flatten().abs() for weight in weights])
    assert int((sizes == 0).sum()) == round(0.25 * (48 + 24 + 8))


# spectral dropout --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["channel", "space", "flat"])
def test_the_transform_keeps_energy_and_gives_back_what_it_took(axis: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    layer = SpectralDropout(axis, threshold=0.0, p=1.0)
    found = layer._transform(x)
    assert float(found.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-12)
    torch.testing.assert_close(layer.train()(x), x, rtol=0, atol=1e-12)
    flat = layer._transform(torch.full_like(x, 2.0))
    count = {"channel": 4 * 6, "space": 5, "flat": 1}[axis]  # one coefficient of a constant
    assert int((flat[0].abs() > 1e-9).sum()) == count


def test_strong_coefficients_stay_and_others_by_chance() -> None:
    """Coefficients 2, 0.05 and 0.1 of rms 1.0012 at τ 0.1: one is strong; 4,000 draws, four standard deviations."""
    layer = SpectralDropout("channel", threshold=0.1, p=0.2)
    coefficients = torch.tensor([[2.0, 0.05, 0.1, 0.0]], dtype=torch.float64)
    x = layer._transform(coefficients, back=True)
    torch.testing.assert_close(layer.eval()._transform(layer(x)), torch.tensor([[2.0, 0, 0, 0]]).double())
    assert layer.density(x) == 0.25
    many = x.repeat(4000, 1)
    torch.manual_seed(0)
    for rule, (strong, weak) in {"or": (1.0, 0.8), "and": (0.8, 0.0)}.items():
        layer = SpectralDropout("channel", threshold=0.1, p=0.2, rule=rule).train()  # type: ignore[arg-type]
        share = (layer._transform(layer(many)).abs() > 1e-9).double().mean(0)
        for found, expected in zip(share[:3].tolist(), (strong, weak, weak), strict=True):
            assert found == pytest.approx(expected, abs=4 * (0.16 / 4000) ** 0.5 if 0 < expected < 1 else 0)


def test_filters_before_spectral_dropout_over_space_can_go_and_along_channels_not() -> None:
    def net(axis: Any) -> nn.Module:
        return nn.Sequential(
            layers.Conv2d(1, 3, 3, gate="unit"), SpectralDropout(axis), nn.Flatten(), nn.Linear(3 * 36, 2)
        )  # fmt: skip

    x = torch.randn(2, 1, 8, 8)
    (found,) = (group for group in groups(net("space"), example_input=x[:1]) if group.gates)
    assert found.can_go
    (found,) = (group for group in groups(net("channel"), example_input=x[:1]) if group.gates)
    assert "spectral dropout, which mixes them" in found.reason


# refused -----------------------------------------------------------------------------------------------------------
