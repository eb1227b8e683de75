"""Methods that rank units and filters: which go, how many, and with what scores; answers known beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.graph.groups import groups
from bayesprune.methods import NAMES, Run, get_method
from bayesprune.methods.fpgm import written_weights
from bayesprune.methods.pls_vip import importances
from bayesprune.methods.protocol.structures import Ranked
from bayesprune.methods.slimming import Slimming
from bayesprune.pruning import cost
from bayesprune.training import Settings, fit
from tests.methods.toys import batches
from tests.training.problems import Batches, branches, examples, stream

RANKED = [name for name in NAMES if isinstance(get_method(name), Ranked) and name != "slimming"]
"""Those that act on networks without normalisation."""


class Given(Ranked):
    """Scores are given."""

    name = "given"

    def __init__(self, *scores: list[float], macs: float = 0.5, layerwise: bool = False):
        super().__init__(macs, layerwise)
        self.given = scores

    def options(self) -> dict[str, Any]:
        return {}

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        return [torch.tensor(part) for part in self.given]


def network(first: int = 4, second: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        layers.Linear(8, first, gate="unit"), nn.ReLU(), layers.Linear(first, second, gate="unit"), nn.ReLU(),
        nn.Linear(second, 2),
    )  # fmt: skip


def kept(method: Ranked, net: nn.Module | None = None, epochs: int = 2) -> list[list[int]]:
    """By gate, the units that are left of a network that learns nothing."""
    net = network() if net is None else net
    sizes = [gate.size for gate in layers.gates_of(net).values()]
    history = fit(net, batches(), epochs=epochs, method=method, settings=Settings(lr=1e-30))
    gone = [{r.index for r in history.removals if r.gate == name} for name in ("0", "2")]
    return [[s for s in range(size) if s not in part] for size, part in zip(sizes, gone, strict=True)]


def test_the_least_of_all_go_until_the_target_is_reached() -> None:
    """8 a + a b + 2 b multiply-adds of a and b units, 50 at the start: the fewest that come down to it."""
    for goal in (0.9, 0.6, 0.5, 0.3):
        left = kept(Given([4.0, 1.0, 3.0, 6.0], [2.0, 7.0, 5.0], macs=goal))
        order = [(0, 1), (1, 0), (0, 2), (0, 0), (1, 2)]
        counts = [(4 - sum(g == 0 for g, _ in order[:n]), 3 - sum(g == 1 for g, _ in order[:n])) for n in range(6)]
        n = next(n for n, (a, b) in enumerate(counts) if 8 * a + a * b + 2 * b <= goal * 50)
        for g in (0, 1):
            assert left[g] == [s for s in range(4 - g) if (g, s) not in order[:n]]


def test_layer_by_layer_each_gives_its_share() -> None:
    left = kept(Given([40.0, 10.0, 30.0, 60.0], [2.0, 7.0, 5.0], macs=0.55, layerwise=True))
    assert left == [[0, 3], [1, 2]]  # by rank: one of each first, then another of the four; 34 of 50 are left of two


@pytest.mark.parametrize("name", RANKED)
def test_the_target_is_hit_to_a_unit(name: str) -> None:
    """Law 9: at most the target is left, and with one unit more it would be too much."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layers.Linear(8, 40, gate="unit"), nn.ReLU(), layers.Linear(40, 40, gate="unit"), nn.ReLU(), nn.Linear(40, 2)
    )
    x = torch.zeros(1, 8)
    start = cost(net, x).macs
    fit(net, batches(), epochs=2, method=get_method(name, macs=0.3), settings=Settings(lr=0.01))
    a, b = (gate.size for gate in layers.gates_of(net).values())
    found = cost(net, x).macs
    assert found == 8 * a + a * b + 2 * b <= 0.3 * start
    assert max(8 * (a + 1) + (a + 1) * b + 2 * b, 8 * a + a * (b + 1) + 2 * (b + 1)) > 0.3 * start


def test_scores_of_weights() -> None:
    """Three filters, flattened (3, 4), (0, 0) and (−6, 8), with their neighbours."""
    net = nn.Sequential(layers.Conv1d(1, 3, 2, bias=False, gate="unit"), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2))
    net[0].weight.data = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[-6.0, 8.0]]])
    (found,) = (group for group in groups(net, example_input=torch.zeros(1, 1, 4)) if group.gates)
    assert torch.equal(written_weights(net, found), net[0].weight.detach().flatten(1).double())
    run: Any = type("At", (), {"net": type("Net", (), {"net": net})()})()

    def scores(name: str) -> list[float]:
        return get_method(name).scores(run, [found])[0].tolist()  # type: ignore[attr-defined]

    assert scores("l1_filters") == [7.0, 0.0, 14.0]
    assert scores("unit_norms") == scores("group_lasso") == pytest.approx([5.0, 0.0, 10.0], abs=1e-9)
    near, far = 5.0, (81 + 16) ** 0.5
    expected = torch.tensor([near + far, near + 10.0, far + 10.0], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(scores("fpgm")).double(), expected / expected.max(), rtol=1e-6, atol=0)


def test_where_the_loss_is_linear_taylor_is_what_removal_changes() -> None:
    """Outputs near 0, where −log softmax is nearly linear: the loss changes by what each unit before them is told."""
    torch.manual_seed(2)
    net = network(5, 3).double()
    net[4].weight.data *= 1e-4
    x, y = examples()
    x = x.double()
    seen: list[Tensor] = []

    class Watched(type(get_method("taylor"))):  # type: ignore[misc]
        name = "watched"

        def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
            told = run.stats().act_grad
            seen.append(told["2"].mean)
            return super().scores(run, found)

    before = {key: value.clone() for key, value in net.state_dict().items()}
    fit(net, Batches(x, y), epochs=2, method=Watched(macs=0.9, size="all"), settings=Settings(lr=1e-30))
    net = network(5, 3).double()
    net.load_state_dict(before)
    for gate in layers.gates_of(net).values():
        nn.init.ones_(gate.theta)
    (last,) = (gate for gate in layers.gates_of(net).values() if gate.size == 3)
    with torch.no_grad():
        whole = F.cross_entropy(net(x), y)
        for s, slope in enumerate(seen[0]):
            last.theta[s] = 0.0
            assert float(whole - F.cross_entropy(net(x), y)) == pytest.approx(float(slope), rel=1e-2, abs=1e-8)
            last.theta[s] = 1.0


def test_maps_of_low_rank_go() -> None:
    """One filter gives maps of one value, another of rows that are alike, the third anything."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), layers.Gate(3), nn.Flatten(), nn.Linear(48, 2))
    net[0].weight.data = torch.eye(3)[:, :, None, None]
    torch.manual_seed(0)
    x = torch.cat([torch.ones(8, 1, 4, 4), torch.rand(8, 1, 1, 4).expand(8, 1, 4, 4), torch.rand(8, 1, 4, 4)], 1)
    loader = Batches(x, torch.zeros(8, dtype=torch.long), 4)
    seen: list[Tensor] = []

    class Watched(type(get_method("hrank"))):  # type: ignore[misc]
        name = "watched"

        def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
            seen.extend(super().scores(run, found))
            return seen

    fit(net, loader, epochs=2, method=Watched(macs=0.8), settings=Settings(lr=1e-30))
    torch.testing.assert_close(seen[0], torch.tensor([0.25, 0.25, 1.0]).to(seen[0]))
    assert [gate.size for gate in layers.gates_of(net).values()] == [2]


def test_importance_in_the_projection() -> None:
    """The mean square is 1, a constant has 0; of orthonormal features and one component it is √p |b| / ‖b‖."""
    torch.manual_seed(1)
    features, classes = torch.randn(60, 5), torch.arange(60) % 3
    features[:, 3] = 2.0
    found = importances(features, classes)
    assert float(found.square().mean()) == pytest.approx(1.0)
    assert float(found[3]) == pytest.approx(0.0, abs=1e-9)
    x, _ = torch.linalg.qr(torch.randn(60, 4).double() - 0)
    x = torch.linalg.qr(x - x.mean(0))[0]
    y = (torch.arange(60) % 2).double()
    slopes = x.T @ (y - y.mean())
    expected = 2 * slopes.abs() / slopes.norm()
    torch.testing.assert_close(importances(x, (torch.arange(60) % 2), 1), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigError, match="all of one class"):
        importances(features, torch.zeros(60, dtype=torch.long))


def with_scales() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), layers.Gate(6), layers.Linear(6, 5, gate="unit"), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip


def test_scales_shrink_by_the_penalty_at_every_step_and_the_smallest_go() -> None:
    """Where the loss has no slope γ moves by lr s a step; units without a scale stay."""
    net = with_scales()
    net[1].weight.data = torch.tensor([0.5, -0.9, 0.05, 0.7, -0.2, 1.0])
    start = net[1].weight.detach().clone()
    nn.init.zeros_(net[6].weight)
    x, y = torch.ones(8, 8), torch.arange(8) % 2

    def plain(p: Any, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, lr=lr)

    seen: list[Tensor] = []

    class Watched(Slimming):
        name = "watched"

        def stepped(self, run: Run) -> None:
            seen.append(net[1].weight.detach().clone())

    fit(
        net,
        Batches(x, y, 8),
        epochs=2,
        method=Watched(macs=0.8, penalty=0.1),
        settings=Settings(lr=0.1, optimizer=plain),
    )
    moved = (start - seen[0]) * start.sign()
    torch.testing.assert_close(moved, torch.full((6,), 0.1 * 0.1), rtol=1e-5, atol=0)
    assert [gate.size for gate in layers.gates_of(net).values()] == [4, 5]  # 0.05 and -0.2 are gone
    assert net[1].weight.shape == (4,) and float(net[1].weight.detach().abs().min()) > 0.4
    with pytest.raises(ConfigError, match="slimming: no batch normalisation scales the units"):
        fit(network(), batches(), epochs=2, method="slimming")


def test_units_that_cannot_go_are_named() -> None:
    with pytest.raises(ConfigError, match=r"what '0' gates .*"):
        fit(stream(), batches(), epochs=2, method="taylor")


def test_an_option_that_a_method_does_not_have() -> None:
    with pytest.raises(ConfigError, match="the method 'lottery' has no option 'macs'; its options: share, cycles"):
        get_method("lottery", macs=0.5)


def test_a_choice_at_random_is_that_of_the_seed() -> None:
    found = [kept(get_method("random_structures", macs=0.5), network(20, 20)) for _ in range(2)]
    assert found[0] == found[1] and sum(map(len, found[0])) < 40


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize(
    ("net", "how", "said"),
    [
        (branches(), {}, "no gate holds several units or filters that can go"),
        (network(), {"macs": 0.1}, r"macs=0.1 cannot be reached: .* 0.220 of the"),
    ],
    ids=["branches", "little"],
)
def test_what_cannot_be_is_refused_before_training(name: str, net: nn.Module, how: dict[str, Any], said: str) -> None:
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ConfigError, match=said):
        fit(net, batches(), epochs=2, method=get_method(name, **how))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(("name", "how"), list(itertools.product(RANKED, [{"macs": 1.0}, {"until": 0.0}])))
def test_bad_settings(name: str, how: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf": {next(iter(how))}"):
        get_method(name, **how)


class Attentive(nn.Module):
    """Two heads, which are followed by shapes alone, and six units."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.units = layers.MultiheadAttention(8, 2, batch_first=True), layers.Linear(8, 6, gate="unit")
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.units(self.heads(x, x, x)[0].mean(1)).relu())


def test_heads_are_removed_while_training() -> None:
    torch.manual_seed(0)
    net, x = Attentive(), torch.randn(24, 3, 8)
    history = fit(net, Batches(x, torch.arange(24) % 2, 8), epochs=2, method=get_method("unit_norms", macs=0.6))
    assert net.heads.q_proj.weight.shape == (4, 8) and history.rows[0].macs <= 0.6 * cost(Attentive(), x[:1]).macs
