from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.graph import Analysis, trace
from bayesprune.layers import Gate, Residual
from bayesprune.ops.features import Features


def constants(tail: nn.Module, first: nn.Module | None = None) -> list[float]:
    """The constants that ``tail`` makes of a first layer with its second of three units off."""
    net = nn.Sequential(layers.Linear(2, 3, gate="unit") if first is None else first, tail)
    analysis = Analysis(trace(net), {net[0].gate: torch.tensor([False, True, False])})
    return analysis.known[list(analysis.traced.graph.nodes)[-2]].value.tolist()


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (nn.ReLU(), 0.0),
        (nn.Sigmoid(), 0.5),
        (nn.Softplus(), 0.6931471805599453),
        (nn.Hardtanh(0.25, 1.0), 0.25),
        (nn.LogSigmoid(), -0.6931471805599453),
        (nn.PReLU(3), 0.0),
        (nn.Sequential(nn.Sigmoid(), nn.PReLU(3)), 0.5),
        (nn.Sequential(nn.LogSigmoid(), nn.PReLU(3)), -0.25 * 0.6931471805599453),
        (nn.Sequential(nn.Dropout(0.5), nn.Sigmoid()), 0.5),
        (nn.PReLU(), 0.0),
        (Apply(lambda x: 1 - x), 1.0),
        (Apply(lambda x: torch.add(x, 2.0).mul(3)), 6.0),
        (Apply(lambda x: (x + 1) * (x - 3) / 2), -1.5),
        (Apply(lambda x: x.clamp(min=0.1).pow(2)), 0.1**2),
        (Apply(lambda x: F.dropout(F.relu(x, inplace=True), 0.5)), 0.0),
        (Apply(lambda x: torch.maximum(torch.sigmoid(x), x)), 0.5),
    ],
)
def test_constant_after(tail: nn.Module, expected: float) -> None:
    value = constants(tail)
    assert value[1] == pytest.approx(expected, rel=1e-12) and value[0] != value[0] and value[2] != value[2]


def test_constants_of_normalisation() -> None:
    norm = nn.BatchNorm1d(3).double()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.running_var.fill_(4.0)
        norm.weight.fill_(3.0)
        norm.bias.fill_(0.5)
    assert constants(norm)[1] == pytest.approx(0.5 - 2 * 3 / (4 + 1e-5) ** 0.5, rel=1e-14)
    assert constants(nn.BatchNorm1d(3, track_running_stats=False, affine=False))[1] == 0.0


def test_constants_of_depthwise_convolution() -> None:
    """The sum of the filter, where no border is padded."""
    conv = nn.Conv1d(3, 3, 2, groups=3)
    value = constants(nn.Sequential(nn.Sigmoid(), conv), layers.Conv1d(2, 3, 1, gate="unit"))
    assert value[1] == pytest.approx((0.5 * conv.weight[1].sum() + conv.bias[1]).item(), rel=1e-6)
    padded = nn.Conv1d(3, 3, 3, padding=1, groups=3)
    value = constants(nn.Sequential(nn.Sigmoid(), padded), layers.Conv1d(2, 3, 1, gate="unit"))
    assert torch.tensor(value).isnan().all()
    assert constants(padded, layers.Conv1d(2, 3, 1, gate="unit"))[1] == padded.bias[1].item()


def test_unknown_in_place_neighbour_is_a_barrier() -> None:
    """What is overwritten while something else reads it has no constant."""
    overwrite = Apply(lambda x: torch.cat([x, F.relu(x, inplace=True)], 1))
    net = nn.Sequential(layers.Linear(2, 3, gate="unit"), overwrite, nn.Linear(6, 1))
    analysis = Analysis(trace(net), {net[0].gate: torch.tensor([False, True, False])})
    assert analysis.known[list(analysis.traced.graph.nodes)[1]] is None


def test_features_of_flattened_tensors() -> None:
    plain = Features(torch.arange(3), torch.full((3,), torch.nan), 1, 4)
    blocks, tiles = (Features(plain.ids, plain.value, 1, 2, layout) for layout in ("blocks", "tiles"))
    assert blocks.entries(6, "x").tolist() == [0, 0, 1, 1, 2, 2]
    assert tiles.entries(6, "x").tolist() == [0, 1, 2, 0, 1, 2]
    assert plain.along(-1) is None and blocks.along(-1) is not None


def test_ties_reach_through_chains_of_sums() -> None:
    """One gate off does not free a channel that another writer of the same stream fills."""
    first, second, third = (layers.Linear(width, 3, gate="unit") for width in (2, 3, 3))
    net = nn.Sequential(first, Residual(second), Residual(third), nn.Linear(3, 1))
    off = torch.tensor([True, False, False])
    gates = [first.gate, second.gate, third.gate]
    for number in range(1, 4):
        analysis = Analysis(trace(net), dict.fromkeys(gates[:number], off))
        node = next(node for node in analysis.traced.graph.nodes if node.target == "0")
        assert analysis.kept(node, 3).tolist() == [number < 3, True, True]


def test_modules_that_must_stay() -> None:
    net = nn.Sequential(Gate(2), nn.Linear(2, 2), nn.ReLU())
    assert trace(net).fixed == {} and [str(node.target) for node in trace(net).graph.nodes][1:4] == ["0", "1", "2"]
    assert trace(nn.Sequential(net[2], net[2])).fixed == {}
    twice = trace(nn.Sequential(net[1], net[1]))
    assert twice.fixed == {} and twice.repeated == {"0"}
    norm = nn.LayerNorm(2)
    assert trace(nn.Sequential(norm, norm)).fixed == {"0": "is called more than once"}
    tied = nn.Sequential(net[1], nn.Linear(2, 2))
    tied[1].weight = net[1].weight
    assert trace(tied).fixed == dict.fromkeys(["0", "1"], "shares its parameters with another module")
