"""Surgery and cost of networks in which one gate multiplies in several places."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.graph import check_gates, trace
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.pruning import ExpectedCost, cost, kept_gates, shrink
from tests.layers.shared import MAPS, VECTORS, Inputs, Stage, Twice, example, separable, stream, together
from tests.pruning.costed import enumerated
from tests.pruning.random_nets import random_network
from tests.pruning.verify import draw_thetas, off_by_mode, randomise_statistics, verify_compaction

NETS = {**VECTORS, **MAPS}
SHARING = (0, 6, 10, 16, 21, 28, 33, 39, 50, 51, 53, 63)
"""Of random networks in which gates are made one those that can be pruned."""


def built(name: str) -> nn.Module:
    torch.manual_seed(3)
    net = NETS[name]().double().eval()
    randomise_statistics(net, 1)
    return net


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_gives_what_the_gated_network_gives(name: str, seed: int) -> None:
    net = built(name)
    draw_thetas(net, seed)
    verify_compaction(net, example(name))


@pytest.mark.parametrize("name", NETS)
def test_entries_go_wherever_the_gate_multiplies(name: str) -> None:
    """With the gate's second entry off nothing of its width is left anywhere; what it kept is one selection."""
    net = built(name)
    first = next(name for name, gate in gates_of(net).items() if gate.size > 1)
    size = gates_of(net)[first].size
    off = {first: torch.arange(size) == 1}
    smaller, index = shrink(net, off)
    assert gates_of(smaller)[first].size == size - 1
    assert kept_gates(net, index)[first].tolist() == [s for s in range(size) if s != 1]
    x = example(name)
    with torch.no_grad():
        for gates in (gates_of(net), gates_of(smaller)):
            for gate in gates.values():
                gate.theta.fill_(1.0)
        gates_of(net)[first].theta[1] = 0.0
    torch.testing.assert_close(smaller(x), net(x), rtol=0, atol=1e-10)


def test_what_goes_with_one_channel_of_a_stream() -> None:
    """A filter of the first convolution, and in both blocks one of the second and an input of the first; BatchNorms."""
    net = Stage()
    smaller, index = shrink(net, {"stream": torch.tensor([False, True, False, False])})
    cut = {name for name, kept in index.kept.items() if any(part is not None for part in kept)}
    assert cut == {
        "stream.theta", "conv.weight", "conv.bias", "head.weight",
        *(f"bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        *(f"blocks.{block}.conv{conv}.weight" for block in (0, 1) for conv in (1, 2)),
        *(f"blocks.{b}.bn2.{part}" for b in (0, 1) for part in ("weight", "bias", "running_mean", "running_var")),
    }  # fmt: skip
    width = {name: tuple(p.shape[:2]) for name, p in smaller.named_parameters() if p.dim() == 4}
    assert width == {
        "conv.weight": (3, 2),
        **{f"blocks.{b}.conv1.weight": (4, 3) for b in (0, 1)},
        **{f"blocks.{b}.conv2.weight": (3, 4) for b in (0, 1)},
    }


def test_inputs_are_selected_alike_in_both_places() -> None:
    net, x = Inputs().double().eval(), torch.randn(4, 3).double()
    smaller, _ = shrink(net, {"gate": torch.tensor([False, True, False])})
    assert smaller.gate.index.tolist() == [0, 2] and smaller.left.in_features == smaller.right.in_features == 2
    with torch.no_grad():
        net.gate.theta[1] = 0.0
    torch.testing.assert_close(smaller(x), net(x), rtol=0, atol=1e-12)
    again, _ = shrink(smaller, {"gate": torch.tensor([True, False])})
    with torch.no_grad():
        net.gate.theta[0] = 0.0
    assert again.gate.index.tolist() == [2]
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=1e-12)


def test_a_gate_keeps_its_name_and_its_book_when_its_first_holder_goes() -> None:
    """Units that a branch shares with a later layer are called after the branch's, which goes first."""
    torch.manual_seed(0)
    net = together().double().eval()
    units = gates_of(net)["3.body.0"]
    first, index = shrink(net, {"0": torch.tensor([True])})
    assert isinstance(first[0], nn.Sequential) and isinstance(first[3], nn.Sequential)
    assert {name: gate.size for name, gate in gates_of(first).items()} == {"2": 1, "3.body.0": 2}
    assert {name: kept.tolist() for name, kept in kept_gates(net, index).items()} == {"2": [0], "3.body.0": [0, 1]}
    second, index = shrink(first, {"3.body.0": torch.tensor([True, False])})
    assert {name: kept.tolist() for name, kept in kept_gates(first, index).items()} == {"2": [0], "3.body.0": [1]}
    assert second[4].out_features == 1
    bnn = bp.BayesianNet(net, num_data=10).double().eval()
    log_gamma = torch.arange(bnn.num_gates).double()
    bnn.log_gamma.copy_(log_gamma)
    before = bnn.by_gate(log_gamma)
    with torch.no_grad():
        bnn.by_gate(bnn.theta)["0"].zero_()
        units.theta.copy_(torch.tensor([0.8, 0.7]))
    small = bp.compact(bnn, posterior=True)
    assert sorted(small.gate_names) == ["2", "3.body.0"]
    assert {name: part.tolist() for name, part in small.by_gate(small.log_gamma).items()} == {
        name: before[name].tolist() for name in ("2", "3.body.0")
    }
    assert small.gate_probs()["3.body.0"].tolist() == pytest.approx([0.8, 0.7])
    x = torch.randn(5, 3).double()
    torch.testing.assert_close(small(x), bnn(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NETS)
def test_expected_cost_at_every_vertex_is_the_cost_of_what_is_left(name: str) -> None:
    """Of networks in which every layer keeps an entry: surgery leaves one of a layer that dies."""
    net, x = built(name), example(name)
    gates = gates_of(net)
    expected = ExpectedCost(net, x)
    sizes = [gate.size for gate in gates.values()]
    free = [s for s in range(sum(sizes)) if s not in itertools.accumulate([0, *sizes]) or (sizes[0] == 1 and s == 0)]
    for bits in itertools.product((0.0, 1.0), repeat=min(4, len(free))):
        vector = torch.ones(sum(sizes))
        vector[free[:4]] = torch.tensor(bits)
        theta = dict(zip(gates, vector.split(sizes), strict=True))
        with torch.no_grad():
            for key, gate in gates.items():
                gate.theta.copy_(theta[key])
        left = cost(shrink(net, off_by_mode(net))[0], x)
        found = {key: float(value) for key, value in expected(theta).items()}
        assert found == pytest.approx({"params": left.params, "macs": left.macs}, rel=1e-12)


def random_thetas(net: nn.Module) -> dict[str, Tensor]:
    """Of every gate of several the first is on; of all others at most eight have a choice."""
    thetas = {name: torch.rand(gate.size) for name, gate in gates_of(net).items()}
    for theta in thetas.values():
        if len(theta) > 1:
            theta[0] = 1.0
    return thetas


@pytest.mark.parametrize("build", [stream, together, Twice, separable])
def test_expected_cost_is_the_mean_over_all_gate_vectors(build) -> None:
    """One gate decides about inputs and outputs of a layer: E[n²], not E[n]², and θ for a sum, not 1 − (1 − θ)²."""
    torch.manual_seed(1)
    net, x = build(), torch.randn(2, *((2, 6, 6) if build is separable else (3,)))
    if build is stream:  # a unit alone in its layer does not die
        with torch.no_grad():
            theta = {**random_thetas(net), "3.body.0": torch.ones(1)}
    else:
        theta = random_thetas(net)
    found = ExpectedCost(net, x)(theta)
    assert (float(found["params"]), float(found["macs"])) == pytest.approx(enumerated(net, x, theta), rel=1e-9)


def test_a_layer_from_a_stream_to_itself_costs_the_mean_square_of_its_width() -> None:
    """Two channels, θ = ½: n is 0, 1, 2 with ¼, ½, ¼, so E[n] = 1 and E[n²] = 1.5."""
    wide = Gate(2, dim=-1)
    net = nn.Sequential(layers.Linear(3, 2, False, gate=wide), layers.Linear(2, 2, False, gate=wide), nn.Linear(2, 1))
    found = ExpectedCost(net, torch.ones(1, 3))({"0": torch.tensor([0.5, 0.5])})
    assert float(found["macs"]) == pytest.approx(3 * 1 + 1.5 + 1)
    theta = torch.tensor([0.5, 0.5], requires_grad=True)
    ExpectedCost(net, torch.ones(1, 3))({"0": theta})["macs"].backward()
    assert theta.grad.tolist() == pytest.approx([3 + (1 + 2 * 0.5) + 1] * 2)  # multilinear: ∂(θ1 + θ2 + 2 θ1 θ2)


def test_a_mask_stays_where_an_entry_cannot_go() -> None:
    """A gate of a layer that forward calls besides, off where others write as well."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = layers.Linear(3, 2, gate="unit"), nn.Linear(3, 2), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(x)) + self.c2(self.a.gate(torch.tanh(self.b(x))))

    net = Net()
    net.c2 = nn.Linear(2, 1)
    net = net.double().eval()
    with torch.no_grad():
        net.a.gate.theta[0] = 0.0
    verify_compaction(net, torch.randn(4, 3))


@pytest.mark.parametrize("name", NETS)
def test_plain_networks_are_saved_and_loaded(name: str, tmp_path) -> None:
    net = built(name)
    draw_thetas(net, 0)
    bp.save(bp.compact(net), tmp_path / "net.pt")
    x = example(name)
    torch.testing.assert_close(bp.load(tmp_path / "net.pt")(x), net(x), rtol=0, atol=1e-10)


def test_branches_that_share_a_gate_go_together() -> None:
    both = Gate(1, per_batch=True, theta=0.1)
    net = nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3), gate=both), Residual(nn.Linear(3, 3), gate=both))
    small = bp.compact(net)
    assert bp.cost(small).params == 12


def shared_at_random(seed: int) -> tuple[nn.Module, Tensor]:
    """A random network in which gates of one size and kind have been made one, with inputs."""
    rng = random.Random(seed)
    net, shape = random_network(seed)
    places = [(module, name) for module in net.modules() for name, part in module._modules.items() if is_gate(part)]
    for module, name in places:
        gate = module._modules[name]
        alike = [part for owner, key in places if same_kind(part := owner._modules[key], gate)]
        if rng.random() < 0.7:
            module._modules[name] = rng.choice(alike)
    return net.double(), torch.randn(3, *shape, dtype=torch.float64)


def is_gate(part: nn.Module | None) -> bool:
    return isinstance(part, Gate)


def same_kind(a: nn.Module | None, b: nn.Module | None) -> bool:
    return isinstance(a, Gate) and isinstance(b, Gate) and (a.size, a.per_batch) == (b.size, b.per_batch)


@pytest.mark.parametrize("seed", SHARING)
def test_random_networks(seed: int) -> None:
    net, x = shared_at_random(seed)
    assert any(len(uses) > 1 for uses in trace(net).uses.values())
    check_gates(net)
    randomise_statistics(net, seed)
    draw_thetas(net, seed)
    verify_compaction(net, x)
