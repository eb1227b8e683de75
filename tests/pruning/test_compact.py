from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune import layers
from bayesprune.graph import gates_of
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import compact
from tests.pruning.nets import NETS
from tests.pruning.random_nets import random_network
from tests.pruning.verify import draw_thetas, randomise_statistics, verify_compaction


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_outputs_stay(name: str, seed: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    build, shape = NETS[name]
    net = build()
    draw_thetas(net, seed)
    randomise_statistics(net, seed)
    verify_compaction(net, torch.randn(3, *shape), dtype)


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    net, shape = random_network(seed)
    draw_thetas(net, seed, keep=0.55)
    randomise_statistics(net, seed)
    verify_compaction(net, torch.randn(2, *shape))


@pytest.mark.parametrize("name", NETS)
def test_compacting_twice_changes_nothing(name: str) -> None:
    net = NETS[name][0]()
    draw_thetas(net, 0)
    once = compact(net)
    twice = compact(once)
    assert str(once) == str(twice) and once.code == twice.code
    assert all(torch.equal(value, twice.state_dict()[key]) for key, value in once.state_dict().items())


def test_training_goes_on_in_the_mode_of_the_network() -> None:
    net = NETS["normalised"][0]().train()
    net[1].eval()
    plain = compact(net)
    assert plain.training and not plain.get_submodule("1").training and plain.get_submodule("5").training
    plain(torch.randn(4, 3, 9, 9)).sum().backward()
    assert all(p.grad is not None for p in plain.parameters())


class Wrapper(nn.Module):
    """As a Bayesian network: it holds a gated one and prices for it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.prices = nn.Parameter(torch.zeros(3))

    def gated_network(self) -> nn.Module:
        return self.net


def test_the_network_within_a_bayesian_one_is_taken() -> None:
    net = NETS["lenet"][0]()
    plain = compact(Wrapper(net))
    assert next(iter(dict(plain.named_parameters()))) == "0.weight"
    x = torch.randn(2, 1, 16, 16)
    assert torch.allclose(plain(x), net(x), atol=1e-6)


def test_a_branch_that_is_off_leaves_no_trace() -> None:
    """Its layers, the sum and the gate go, whether it is a Residual or written out."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.gate, self.act = nn.Linear(3, 4), nn.Linear(4, 4), Gate(1), nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            stem = self.stem(x)
            return self.act(stem + self.gate(self.act(self.body(stem)))) - stem

    for net in (Branch(), nn.Sequential(nn.Linear(3, 4), Residual(nn.Linear(4, 4)))):
        gate = next(iter(gates_of(net).values()))
        with torch.no_grad():
            gate.theta.zero_()
        plain = verify_compaction(net, torch.randn(5, 3))
        assert len(list(plain.parameters())) == 2
        assert not [node for node in plain.graph.nodes if node.target is operator.add]


def test_a_gate_that_is_on_does_not_lend_its_input() -> None:
    """Without the gate an in-place activation would write over what others read."""

    class Lender(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.act, self.out = nn.Linear(3, 4), Gate(4), nn.ReLU(inplace=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            a, b = self.gate(x), F.relu(self.gate(x), inplace=True)
            a += 1
            return self.out(self.act(self.gate(x)) + a + b) + self.out(x)

    verify_compaction(Lender(), torch.randn(5, 3))


def test_functional_dropout_is_that_of_eval_mode() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = layers.Linear(3, 4, gate="unit"), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(F.dropout(self.first(x), 0.5, training=self.training))

    net = Dropping().train()
    x = torch.randn(5, 3)
    assert torch.allclose(compact(net)(x), net.eval()(x), atol=1e-6)


def test_gates_all_off() -> None:
    """What is left is a constant: the outputs of the gated network, from one unit a layer."""
    net = NETS["mlp_with_input_gates"][0]()
    for gate in gates_of(net).values():
        with torch.no_grad():
            gate.theta.zero_()
    plain = verify_compaction(net, torch.randn(2, 2, 3, 4))
    assert [tuple(p.shape) for p in plain.parameters()] == [(1, 1), (1,), (1, 1), (1,), (3, 1), (3,)]
