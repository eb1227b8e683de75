"""Methods that draw while they train: what is drawn, with what probability, and what is left; answers known before."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions.hard_concrete import hard_concrete, not_zero
from bayesprune.distributions.kl import log_uniform_kl
from bayesprune.errors import ConfigError
from bayesprune.graph.groups import groups
from bayesprune.infer.likelihoods import Gaussian
from bayesprune.layers import SpectralDropout
from bayesprune.methods import Method, Run, get_method
from bayesprune.methods.dropout_norms import DropoutNorms
from bayesprune.methods.l0 import HardConcrete
from bayesprune.methods.protocol.along import Along
from bayesprune.methods.sparse_vd import SparseVariationalDropout
from bayesprune.methods.targeted_units import TargetedUnits
from bayesprune.training import Settings, fit
from tests.methods.toys import batches
from tests.training.problems import Batches, branches, convolutional, examples, units


def small() -> nn.Module:
    """Two layers with gates, 8 → 6 → 4 → 2."""
    torch.manual_seed(0)
    return nn.Sequential(
        layers.Linear(8, 6, gate="unit"), nn.ReLU(), layers.Linear(6, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2)
    )  # fmt: skip


def seen_weights(net: nn.Module, method: Method, epochs: int = 2) -> list[tuple[Tensor, ...]]:
    """What the layers compute with in every step of a run."""
    found: list[tuple[Tensor, ...]] = []
    view = type(method).view

    class Watched(type(method)):  # type: ignore[misc]
        name = "watched"

        def objective(self, run: Run) -> Any:
            seen.clear()
            value = super().objective(run)
            found.append(tuple(seen))
            return value

        def view(self, site: Any, value: Tensor, run: Run) -> Tensor:
            seen.append(view(self, site, value, run).detach().clone())
            return seen[-1]

    seen: list[Tensor] = []
    method.__class__ = Watched
    fit(net, batches(80), epochs=epochs, method=method, settings=Settings(lr=1e-30))
    return found


# factors along structures ------------------------------------------------------------------------------------------


def test_factors_reach_the_weights_of_their_structures_and_no_others() -> None:
    """Behind a convolution that is flattened each filter has six columns."""
    net = convolutional()
    found = [group for group in groups(net, example_input=torch.zeros(1, 1, 8)) if group.gates]
    along = Along(net, found, "in")
    assert along.sizes == [4, 5] and along.weights.tolist() == [30.0] * 4 + [2.0] * 5
    factors = torch.arange(1.0, 10.0)
    columns = along("5.weight", torch.ones(5, 24), factors)
    assert torch.equal(columns, torch.arange(1.0, 5.0).repeat_interleave(6).expand(5, 24))
    assert torch.equal(along("7.weight", torch.ones(2, 5), factors), torch.arange(5.0, 10.0).expand(2, 5))
    assert "0.weight" not in along and along("0.weight", net[0].weight, factors) is net[0].weight


def test_a_layer_that_reads_and_writes_a_stream_is_multiplied_on_one_side() -> None:
    """Both residual writers run along the stream on two sides."""
    stream = layers.Gate(4)
    first, second = layers.Linear(8, 4, gate=stream), layers.Linear(4, 4, gate=stream)
    net = Stream(first, second)
    (found,) = (group for group in groups(net, example_input=torch.zeros(1, 8)) if group.gates)
    factors, ones = torch.arange(1.0, 5.0), torch.ones(4, 4)
    assert set(found.written) == {"first", "second"} and set(found.read) == {"second", "last"}
    assert torch.equal(Along(net, [found], "in")("second.weight", ones, factors), factors.expand(4, 4))
    assert torch.equal(Along(net, [found], "out")("second.weight", ones, factors), factors[:, None].expand(4, 4))


class Stream(nn.Module):
    """A stream that two layers write, one of which reads it."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second, self.last = first, second, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x)
        return self.last(stream + self.second(stream))


# targeted dropout of units -----------------------------------------------------------------------------------------


def test_targeted_units_are_0_as_a_whole_and_others_never() -> None:
    """The last epoch before units go: γ and α as they are in the end; of six units the four smallest are targeted."""
    net = small()
    with torch.no_grad():
        for k, row in enumerate(net[0].weight):
            row.fill_(k + 1.0)
    steps = seen_weights(net, TargetedUnits(gamma=0.7, alpha=0.5, until=0.9), epochs=10)
    late = torch.stack([first for first, *_ in steps[5 * 6 : 9 * 6]])  # 24 steps
    gone = (late == 0).all(2)
    assert bool(((late == 0).any(2) == gone).all())
    assert not bool(gone[:, 4:].any())
    rate = float(gone[:, :4].float().mean())  # 96 draws: off by four standard deviations once in 16,000
    assert rate == pytest.approx(0.5, abs=4 * (0.25 / 96) ** 0.5)
    assert torch.equal(late[0][4:], torch.full((2, 8), 5.0) + torch.tensor([[0.0], [1.0]]))


def test_weights_of_targeted_units_may_be_drawn_one_by_one() -> None:
    net = small()
    with torch.no_grad():
        for k, row in enumerate(net[0].weight):
            row.fill_(k + 1.0)
    steps = seen_weights(net, TargetedUnits(gamma=0.7, alpha=0.5, until=0.9, per_weight=True), epochs=10)
    late = torch.stack([first for first, *_ in steps[5 * 6 : 9 * 6]]) == 0
    assert not bool(late[:, 4:].any())
    assert float(late[:, :4].float().mean()) == pytest.approx(0.5, abs=4 * (0.25 / (24 * 32)) ** 0.5)
    assert bool((late[:, :4].any(2) != late[:, :4].all(2)).any())


def test_at_first_nothing_is_targeted_and_certain_targets_are_always_0() -> None:
    net = small()
    weight = net[0].weight.detach().clone()
    steps = seen_weights(net, TargetedUnits(gamma=0.5, alpha=1.0, until=0.5), epochs=10)
    assert torch.equal(steps[0][0], weight)
    smallest = weight.norm(dim=1).argsort()[:3]
    assert (steps[29][0] == 0).all(1).nonzero()[:, 0].tolist() == sorted(smallest.tolist())


# L0 ----------------------------------------------------------------------------------------------------------------


def test_how_likely_a_hard_concrete_number_is_not_0() -> None:
    """The formula against 200,000 draws, off by four standard deviations once in 16,000; and the quantiles of z."""
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for log_alpha in (-3.0, -0.5, 0.0, 1.0, 3.0):
        at = torch.tensor(log_alpha, dtype=torch.float64)
        z, there = hard_concrete(at, u), float(not_zero(at))
        assert float((z != 0).double().mean()) == pytest.approx(there, abs=4 * (there * (1 - there) / 2e5) ** 0.5)
        q = np.linspace(0.001, 0.999, 101)
        s = 1 / (1 + np.exp(-(np.log(q / (1 - q)) + log_alpha) / (2 / 3)))
        expected = np.clip(1.2 * s - 0.1, 0, 1)
        np.testing.assert_allclose(hard_concrete(at, torch.from_numpy(q)), expected, rtol=0, atol=1e-12)
    assert float(hard_concrete(torch.tensor(-math.log(11.0)))) == pytest.approx(0.0, abs=1e-7)  # σ = 1/12
    assert float(hard_concrete(torch.tensor(math.log(11.0)))) == pytest.approx(1.0, abs=1e-7)


def test_one_number_a_unit_multiplies_all_that_reads_it() -> None:
    net = small()
    before = [net[k].weight.detach().clone() for k in (0, 2, 4)]
    steps = seen_weights(net, HardConcrete())
    for first, second, third in steps[:6]:
        assert torch.equal(first, before[0])
        for found, weight in ((second, before[1]), (third, before[2])):
            z = found / weight
            torch.testing.assert_close(z, z[:1].expand_as(z), rtol=1e-4, atol=1e-6)
            assert float(z.min()) >= 0 and float(z.max()) <= 1 + 1e-6
    assert len({tuple(second.flatten().tolist()) for _, second, _ in steps[:6]}) > 1


def test_the_least_probable_go_and_the_others_keep_their_numbers_for_good() -> None:
    """Three of six and two of four units; what is left computes with the weights times z of eval mode."""
    net, first = small(), torch.tensor([3.0, -2.0, 0.3, -3.0, 1.0, -1.0, 2.0, -2.0, 0.2, -0.1])
    weight = net[2].weight.detach().clone()

    class Given(HardConcrete):
        name = "given"

        def setup(self, run: Run) -> Any:
            needs = super().setup(run)
            self.slow.data = first / self.rate
            return needs

    fit(net, batches(), epochs=2, method=Given(macs=0.54, layerwise=True), settings=Settings(lr=1e-30))
    assert [gate.size for gate in layers.gates_of(net).values()] == [3, 2]
    z = (torch.sigmoid(first) * 1.2 - 0.1).clamp(0, 1)
    torch.testing.assert_close(net[2].weight.detach(), (weight * z[:6])[[0, 2]][:, [0, 2, 4]])


def test_the_penalty_is_what_is_expected_to_be_there() -> None:
    method = HardConcrete(penalty=0.2, drop=0.3)
    rows = fit(small(), batches(80), epochs=4, method=method, settings=Settings(lr=1e-30)).rows
    there = not_zero(torch.tensor(math.log(0.7 / 0.3)))
    assert rows[0].loss - rows[0].nll == pytest.approx(0.2 / 480 * float(there) * (6 * 4 + 4 * 2), rel=2e-2)
    assert rows[2].loss == rows[2].nll


def test_structures_whose_readers_have_no_weight_along_them_are_refused() -> None:
    lstm = nn.LSTM(6, 3, batch_first=True)  # its weights have other names
    net = nn.Sequential(layers.Linear(8, 6, gate="unit"), nn.ReLU(), lstm, Last(), nn.Linear(3, 2))
    x = torch.randn(40, 5, 8)
    with pytest.raises(ConfigError, match="HardConcrete: what reads the units or filters that have gates has no weigh"):
        fit(net, Batches(x, torch.arange(40) % 2, 20), epochs=2, method="l0")


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def forward(self, x: tuple[Tensor, Any]) -> Tensor:
        return x[0][:, -1]


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
    run: Any = type("At", (), {"phase": type("P", (), {"name": "train"})()})()
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


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("l0", {"penalty": -1.0}), ("l0", {"drop": 1.0}), ("l0", {"rate": 0.0}), ("targeted_units", {"gamma": 1.0}),
        ("targeted_units", {"alpha": 0.0}), ("sparse_vd", {"sparsity": 1.0}), ("sparse_vd", {"warmup": 0.0}),
        ("sparse_vd", {"start": math.inf}), ("sparse_vd", {"threshold": 9.0}), ("dropout_norms", {"units": 1.0}),
        ("dropout_norms", {"max_norm": 0.0}), ("dropout_norms", {"l1": -1.0}), ("spectral_dropout", {"p": 2.0}),
        ("spectral_dropout", {"axis": "time"}), ("movement", {"sparsity": 0.0}), ("movement", {"until": 1.0}),
        ("learn_drop", {"least": 1.0}), ("learn_drop", {"epochs": 0}),
        ("targeted_units", {"per_weight": 1}),
    ],
)  # fmt: skip
def test_bad_settings(name: str, how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(how))):
        get_method(name, **how)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("make", "name", "how", "said"),
    [
        (normed, "dropout_norms", {"units": 0.0, "l2": 0.1}, "normalises batches"),
        (normed, "dropout_norms", {"units": 0.5}, "what is to be dropped has no gates"),
        (units, "dropout_norms", {"units": 0.0, "filters": 0.5}, "what is to be dropped has no gates"),
        (branches, "spectral_dropout", {}, "no gate holds several units or filters"),
        (units, "targeted_units", {"gamma": 0.1}, "less than one in every layer"),
    ],
)
def test_what_cannot_be_is_refused_before_training(make: Any, name: str, how: dict[str, Any], said: str) -> None:
    net = make()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ConfigError, match=said):
        fit(net, batches(), epochs=2, method=get_method(name, **how))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
