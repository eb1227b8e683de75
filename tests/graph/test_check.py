from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError, TraceError
from bayesprune.graph import check_gates
from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.pruning import compact, shrink
from tests.pruning.nets import NETS


def unit(*rest: nn.Module) -> nn.Module:
    return nn.Sequential(layers.Linear(3, 4, gate="unit"), *rest)


def maps(*rest: nn.Module) -> nn.Module:
    return nn.Sequential(layers.Conv2d(3, 4, 3, gate="unit"), *rest)


class Forward(nn.Module):
    """A gated layer, what a test does with its output, and a linear layer."""

    def __init__(self, function, width: int = 4) -> None:
        super().__init__()
        self.first = layers.Conv2d(3, 4, 3, gate="unit")
        self.function = function
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self.first(x)))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = layers.Linear(4, 4, gate="unit"), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.fc(x)))


@pytest.mark.parametrize("name", ["mlp_with_input_gates", "lenet", "normalised", "residual", "sigmoid", "depthwise"])
def test_accepted(name: str) -> None:
    check_gates(NETS[name][0]())


@pytest.mark.parametrize(
    "net",
    [
        unit(nn.Sigmoid(), nn.Linear(4, 2)),
        unit(nn.Softplus(), nn.Dropout(0.0), nn.Linear(4, 2)),
        unit(nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)),
        maps(nn.Sigmoid(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 2, 1)),
        maps(nn.ELU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 2, 3, padding=1)),
        maps(nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")),
        Forward(lambda x: torch.flatten(F.relu(x), 1)),
        Forward(lambda x: x.reshape(x.shape[0], -1)),
        Forward(lambda x: x.view((x.size()[0], -1))),
        Forward(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
        Forward(lambda x: torch.mean(x, dim=(-1, -2))),
        nn.Sequential(Residual(nn.Linear(3, 3)), nn.BatchNorm1d(3), nn.LayerNorm(3)),
        nn.Sequential(layers.Linear(3, 3, gate="layer"), nn.ReLU(), nn.Linear(3, 3)),
    ],
)
def test_more_that_is_accepted(net: nn.Module) -> None:
    check_gates(net)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), "the network has no gate"),
        (unit(nn.BatchNorm1d(4), nn.Linear(4, 2)), "gate '0': what it gates comes before 1, a BatchNorm1d"),
        (maps(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)), "'0': what it gates comes before 2, a BatchNorm2d"),
        (nn.Sequential(layers.Linear(3, 4, gate="layer"), nn.BatchNorm1d(4)), "comes before 1, a BatchNorm1d"),
        (maps(nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1)), r"leaves the constant 0\.5 .* 2 pads with zeros"),
        (unit(nn.Sigmoid(), nn.Linear(4, 2, bias=False)), r"leaves the constant 0\.5 .* 2 has no bias"),
        (unit(nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(4, 2)), "leaves a constant that is not carried through 2"),
        (maps(nn.Sigmoid(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 2, 1)), "a constant that is not carried through 2"),
        (unit(nn.LayerNorm(4), nn.Linear(4, 2)), "reaches 1, a LayerNorm"),
        (unit(nn.Softmax(1), nn.Linear(4, 2)), "reaches 1, a Softmax"),
        (unit(), "is an output of the network"),
        (
            nn.Sequential(nn.Linear(3, 4), Residual(nn.Sequential(layers.Linear(4, 4, gate="unit"), nn.Sigmoid()))),
            r"'1.body.0': .* leaves a constant other than 0 in a sum .* not silence",
        ),
        (Forward(lambda x: x.view(-1, 4)), r"reaches view.*torch\.flatten"),
        (Forward(lambda x: F.softmax(x, 1)), "reaches softmax"),
        (Forward(lambda x: x / x.size(1)), "has its shape read"),
        (Forward(lambda x: x.flatten()), "does not flatten all dimensions"),
        (Forward(lambda x: x.mean(1)), "does not run over the space of maps alone"),
        (Forward(lambda x: x + x.mean()), "reaches mean"),
        (Forward(lambda x: x), "along another dimension than out reads"),
        (Shared(), "gate 'fc': what it gates is read by fc, which elsewhere is called with what stays"),
        (nn.Sequential(nn.Linear(3, 4), Gate(5), nn.Linear(5, 2)), "gate '1' has 5 entries, .* has 4 features"),
        (maps(nn.Flatten(), Gate(10), nn.Linear(10, 2)), "gate '2' has 10 .* 4 features .times the size of the map"),
        (maps(Gate(4, dim=-1)), "gate '0': what it gates is an output of the network"),
        (maps(Gate(4, dim=-1), nn.Conv2d(4, 2, 1)), "gate '1': .* along another dimension than 2 reads"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), Gate(4, dim=2)), "gate '1': what it gates is an output"),
        (nn.Sequential(Gate(4, dim=0), nn.Linear(4, 2)), "along dimension 0, the examples of a batch"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), Gate(4, dim=-4)), "along dimension -4, the examples of a batch"),
    ],
)
def test_refused(net: nn.Module, message: str) -> None:
    with pytest.raises(GateError, match=message):
        check_gates(net)


def verify_sum_keeps_its_zeros(net: nn.Sequential, gate: Gate, still_written: int) -> None:
    """Accepted; with every other gate off, the outputs stay exact and entries that another writer fills stay."""
    check_gates(net)
    with torch.no_grad():
        gate.theta.copy_(torch.tensor([1.0, 0.0]).repeat(gate.size)[: gate.size])
    net.double().eval()
    name = next(name for name, candidate in gates_of(net).items() if candidate is gate)
    smaller, _ = shrink(net, {name: gate.theta == 0})
    x = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(smaller(x), net(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(compact(net)(x), net(x), rtol=0, atol=1e-12)
    kept = gates_of(smaller)[name]
    assert kept.size == still_written
    assert int((kept.theta > 0).sum()) == (gate.size + 1) // 2


def test_unit_gates_that_write_to_a_stream_with_another_writer() -> None:
    """The branch's units off are zeros in the stream that the first layer writes: accepted, and kept in place."""
    within = layers.Linear(4, 4, gate="unit")
    verify_sum_keeps_its_zeros(nn.Sequential(nn.Linear(3, 4), Residual(within), nn.Linear(4, 2)), within.gate, 4)
    below = layers.Linear(3, 5, gate="unit")
    net = nn.Sequential(below, nn.ReLU(), Residual(nn.Sequential(nn.Linear(5, 5), nn.ReLU())), nn.Linear(5, 2))
    verify_sum_keeps_its_zeros(net, below.gate, 5)


def test_units_of_a_stream_go_with_its_last_other_writer() -> None:
    """Once the branch is removed as well, nothing writes where the gate is off, and its entries go."""
    below = layers.Linear(3, 5, gate="unit")
    net = nn.Sequential(below, nn.ReLU(), Residual(nn.Linear(5, 5)), nn.Linear(5, 2)).double().eval()
    off = torch.tensor([True, False, True, False, False])
    smaller, _ = shrink(net, {"0": off, "2": torch.tensor([True])})
    with torch.no_grad():
        below.gate.theta[off] = 0
        net[2].gate.theta.fill_(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(smaller(x), net(x), rtol=0, atol=1e-12)
    assert gates_of(smaller)["0"].size == 3 and smaller[3].in_features == 3


def test_gate_that_forward_does_not_use() -> None:
    net = Forward(lambda x: x.flatten(1))
    net.spare = Gate(3)
    with pytest.raises(GateError, match="gate 'spare' is not used in the forward pass"):
        check_gates(net)


def test_layer_that_does_not_fit() -> None:
    with pytest.raises(TraceError, match="1 expects 5 features, but what it is given has 4"):
        check_gates(unit(nn.Linear(5, 2)))


def test_control_flow_on_data() -> None:
    with pytest.raises(TraceError, match=r"Forward cannot be followed.*Avoid Python conditions"):
        check_gates(Forward(lambda x: x if x.sum() > 0 else -x))


@pytest.mark.parametrize("module", [Gate(3), layers.Linear(3, 3, gate="unit"), Residual(nn.Linear(3, 3))])
def test_lone_gated_module(module: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"wrap it: torch\.nn\.Sequential"):
        check_gates(module)


def _behind(operation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), layers.Residual(nn.Linear(3, 3)), operation, nn.Linear(3, 2))


class InPlace(nn.Module):
    def forward(self, x):
        return x.relu_()


@pytest.mark.parametrize(("operation", "name"), [(nn.ReLU(inplace=True), "3"), (InPlace(), "relu_")])
def test_in_place_behind_a_block_that_may_hand_on_its_input(operation: nn.Module, name: str) -> None:
    with pytest.raises(GateError, match=rf"^{name} works in place on what the residual block '2' gives"):
        check_gates(_behind(operation))


@pytest.mark.parametrize("bypass", [None, nn.Linear(3, 3)])
def test_in_place_at_the_beginning_of_a_branch(bypass: nn.Module | None) -> None:
    block = layers.Residual(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3)), bypass)
    with pytest.raises(GateError, match=r"^1\.body\.0 works in place on the input of the branch that it begins"):
        check_gates(nn.Sequential(nn.Linear(3, 3), block, nn.Linear(3, 2)))


def test_in_place_where_the_by_pass_has_memory_of_its_own() -> None:
    check_gates(_behind(nn.ReLU()))
    own = nn.Sequential(layers.Residual(nn.Linear(3, 3), nn.Linear(3, 3)), nn.ReLU(inplace=True), nn.Linear(3, 2))
    check_gates(own)
    bnn = BayesianNet(own, num_data=10)
    bnn(torch.randn(4, 3), torch.zeros(1, 1), skip=True).sum().backward()


@pytest.mark.parametrize("bypass", [nn.Sequential(), nn.Sequential(nn.Identity())])
def test_in_place_behind_a_by_pass_that_is_an_identity_in_other_words(bypass: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3), bypass), nn.ReLU(inplace=True), nn.Linear(3, 2))
    with pytest.raises(GateError, match=r"^2 works in place on what the residual block '1' gives"):
        check_gates(net)


def test_in_place_behind_a_block_within_a_branch() -> None:
    inner = nn.Sequential(Residual(nn.Linear(3, 3)), nn.ReLU(inplace=True), nn.Linear(3, 3))
    with pytest.raises(GateError, match=r"^1 works in place on what the residual block '1\.body\.0' gives"):
        check_gates(nn.Sequential(nn.Linear(3, 3), Residual(inner), nn.Linear(3, 2)))
