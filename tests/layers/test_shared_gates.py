"""One gate in several places: one entry of θ, wherever it multiplies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import ConfigError, GateError
from bayesprune.graph import check_gates
from bayesprune.layers import Draw, Gate, Residual, gates_of, holders_of
from tests.layers.shared import MAPS, VECTORS, Twice, example, together

NAMES = {
    "stream": {"0": 3, "2": 1, "2.body.0": 2, "3": 1, "3.body.0": 1},
    "together": {"0": 1, "2": 1, "3.body.0": 2},
    "twice": {"gate": 4},
    "product": {"query": 4},
    "inputs": {"gate": 3},
    "stage": {"stream": 4, "blocks.0.inner": 4, "blocks.1.inner": 4},
    "separable": {"0": 4, "4": 3},
}
NETS = {**VECTORS, **MAPS}


@pytest.mark.parametrize("name", NETS)
def test_it_is_listed_once_by_the_first_module_that_holds_it(name: str) -> None:
    net = NETS[name]()
    assert {key: gate.size for key, gate in gates_of(net).items()} == NAMES[name]
    bnn = bp.BayesianNet(net, num_data=10)
    assert {key: len(theta) for key, theta in bnn.gate_probs().items()} == NAMES[name]
    assert sorted(bnn.gate_names) == sorted(NAMES[name]) and bnn.num_gates == sum(NAMES[name].values())
    assert len(bnn.log_gamma) == bnn.num_gates


def test_holders_are_all_layers_and_blocks() -> None:
    net = together()
    held = {name: list(holders_of(net)[gate]) for name, gate in gates_of(net).items()}
    assert held == {"0": ["0", "3"], "2": ["2"], "3.body.0": ["3.body.0", "4"]}
    alone = Twice()
    assert holders_of(alone) == {alone.gate: {}}


def test_all_places_use_the_same_slice_of_a_draw() -> None:
    wide = Gate(2)
    net = nn.Sequential(layers.Linear(2, 2, gate=wide), layers.Linear(2, 2, gate=wide))
    for layer in net:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    draw = Draw([1, 2])
    wide.connect(draw, 1)
    x = torch.ones(2, 2)
    with draw.use(torch.tensor([[1.0, 0.5, 0.0], [1.0, 2.0, 3.0]])):
        assert net(x).tolist() == [[0.25, 0.0], [4.0, 9.0]]


def test_a_layer_says_along_which_dimension_it_is_gated() -> None:
    """A gate made for channels runs along the last dimension behind a linear layer, whatever the rank."""
    wide = Gate(3)
    with torch.no_grad():
        wide.theta.copy_(torch.tensor([1.0, 0.0, 1.0]))
    maps = layers.Conv1d(2, 3, 1, gate=wide)(torch.ones(1, 2, 3))
    tokens = layers.Linear(2, 3, gate=wide)(torch.ones(1, 3, 2))
    assert not maps[:, 1].any() and maps[:, ::2].all()
    assert not tokens[..., 1].any() and tokens[..., ::2].all()


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda gate: layers.Linear(2, 4, gate=gate), 4),
        (lambda gate: layers.Conv1d(2, 4, 1, gate=gate), 4),
        (lambda gate: layers.Conv2d(2, 4, 1, gate=gate), 4),
    ],
)
def test_a_gate_of_another_size_is_refused(build, size: int) -> None:
    build(Gate(size)), build(Gate(1, per_batch=True))
    with pytest.raises(ConfigError, match=rf"the gate must have size {size} \(one gate an output\) or 1, got 3"):
        build(Gate(3))


@pytest.mark.parametrize(("gate", "found"), [(Gate(3, per_batch=True), "size 3"), (Gate(1), "per_batch=False")])
def test_branches_take_one_gate_with_one_draw_a_batch(gate: Gate, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"Residual: the gate must be Gate\(1, per_batch=True\), got .*{found}"):
        Residual(nn.Linear(3, 3), gate=gate)


@pytest.mark.parametrize("name", NETS)
def test_copies_and_state_dicts_keep_it_one(name: str) -> None:
    bnn = bp.BayesianNet(NETS[name](), num_data=10).double()
    with torch.no_grad():
        bnn.theta.copy_(torch.rand(bnn.num_gates))
    copied, other = copy.deepcopy(bnn), bp.BayesianNet(NETS[name](), num_data=10).double()
    other.load_state_dict(bnn.state_dict())
    x, xi = example(name), torch.rand(bnn.num_gates).double()
    for same in (copied, other):
        assert torch.equal(same.theta, bnn.theta) and len({id(gate) for gate in same.gates()}) == len(same.gates())
        assert torch.equal(same.eval()(x, xi), bnn.eval()(x, xi))
        with torch.no_grad():
            same.theta.zero_()
        assert not any(gate.theta.any() for gate in gates_of(same.net).values())
    assert bnn.theta.any()
    assert list(dict(bnn.named_parameters())).count("theta") == 1


def test_a_stream_that_one_writer_leaves_open_stays_as_a_whole() -> None:
    """0 changes nothing there: the entry is not removed, and the gate is accepted, as every gate before a sum."""
    wide = Gate(3, dim=-1)
    net = nn.Sequential(
        layers.Linear(3, 3, gate=wide),
        Residual(nn.Linear(3, 3)),
        Residual(layers.Linear(3, 3, gate=wide)),
        nn.Linear(3, 1),
    )
    check_gates(net)
    bnn = bp.BayesianNet(net, num_data=10).double().eval()
    with torch.no_grad():
        bnn.by_gate(bnn.theta)["0"][1] = 0.0
    small = bp.compact(bnn)
    assert bp.cost(small).params == bp.cost(bnn).params
    x = torch.randn(4, 3).double()
    torch.testing.assert_close(small(x), bnn(x), rtol=0, atol=1e-10)


def test_what_makes_a_gate_no_removal_in_its_second_place_is_refused() -> None:
    wide = Gate(3)
    check_gates(
        nn.Sequential(layers.Linear(2, 3, gate=wide), nn.ReLU(), layers.Linear(3, 3, gate=wide), nn.Linear(3, 1))
    )
    with pytest.raises(GateError, match=r"gate '0'.*comes before 3, a BatchNorm1d"):
        check_gates(
            nn.Sequential(
                layers.Linear(2, 3, gate=wide), nn.ReLU(), layers.Linear(3, 3, gate=wide), nn.BatchNorm1d(3),
                nn.Linear(3, 1),
            )
        )  # fmt: skip
    with pytest.raises(GateError, match=r"gate '0'.*is an output of the network"):
        check_gates(nn.Sequential(layers.Linear(2, 3, gate=wide), nn.ReLU(), layers.Linear(3, 3, gate=wide)))


def test_a_sum_with_nothing_but_silenced_terms_takes_any_constant() -> None:
    """sigmoid(0) is no 0, but of two terms of one gate the sum is known: it folds into the bias behind."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            gate = Gate(3, dim=-1)
            self.a, self.b, self.c = layers.Linear(2, 3, gate=gate), layers.Linear(2, 3, gate=gate), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.sigmoid(self.a(x)) + torch.sigmoid(self.b(x)))

    net = Net().double().eval()
    check_gates(net)
    with torch.no_grad():
        net.a.gate.theta[1] = 0.0
    small, x = bp.compact(net), torch.randn(4, 2).double()
    assert small.c.in_features == small.a.out_features == small.b.out_features == 2
    torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-10)


def test_ranks_that_differ_are_no_obstacle_where_they_are_known() -> None:
    wide = Gate(3)
    net = nn.Sequential(
        layers.Conv1d(2, 3, 1, gate=wide), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        layers.Linear(3, 3, gate=wide), nn.Linear(3, 1),
    )  # fmt: skip
    check_gates(net, example_input=torch.ones(1, 2, 5))
    assert net(torch.ones(2, 2, 5)).shape == (2, 1)
