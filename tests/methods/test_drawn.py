"""Methods that draw while they train: what is drawn, with what probability, and what is left; answers known before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions.hard_concrete import hard_concrete, not_zero
from bayesprune.errors import ConfigError
from bayesprune.graph.groups import groups
from bayesprune.methods import Method, Run, get_method
from bayesprune.methods.l0 import HardConcrete
from bayesprune.methods.protocol.along import Along
from bayesprune.methods.targeted_units import TargetedUnits
from bayesprune.training import Settings, fit
from tests.methods.toys import batches
from tests.training.problems import Batches, branches, convolutional, units


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
    with pytest.raises(ConfigError, match="l0: what reads the units or filters that have gates has no weigh"):
        fit(net, Batches(x, torch.arange(40) % 2, 20), epochs=2, method="l0")


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def forward(self, x: tuple[Tensor, Any]) -> Tensor:
        return x[0][:, -1]


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
