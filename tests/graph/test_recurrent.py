"""Recurrent layers and tables of embeddings: what goes before them, exactly; their units: test_recurrent_units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.errors import GateError
from bayesprune.layers import Gate, gates_of
from bayesprune.ops import operation_of
from tests.conversion.small import distance, switch_off

LAYERS = [
    lambda **given: nn.LSTM(6, 4, 2, bidirectional=True, batch_first=True, **given),
    lambda **given: nn.GRU(6, 4, batch_first=True, **given),
    lambda **given: nn.RNN(6, 4, nonlinearity="relu", batch_first=True, **given),
]


class Words(nn.Module):
    """Tokens, a layer on each, a recurrent one, and a map of what it gives last."""

    def __init__(self, recurrent: nn.RNNBase, activation: nn.Module):
        super().__init__()
        self.table, self.units, self.activation = nn.Embedding(20, 5, padding_idx=0), nn.Linear(5, 6), activation
        self.recurrent, self.out = recurrent, nn.Linear(4 * (1 + recurrent.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrent(self.activation(self.units(self.table(x))))[0][:, -1])


@pytest.mark.parametrize(
    "recurrent, activation", [*((each, nn.Sigmoid) for each in LAYERS), (LAYERS[0], nn.ReLU)]
)  # a sigmoid leaves a constant, which goes into the biases
def test_units_before_a_recurrent_layer_go(recurrent: Any, activation: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Words(recurrent(), activation()).double().eval(), torch.randint(20, (3, 7))
    net = bp.convert(model, example_input=x, skip=["recurrent"])
    assert {name: gate.size for name, gate in gates_of(net).items()} == {"table_gate": 5, "units_gate": 6}
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    left = int(gates_of(net)["units_gate"].mode().sum())
    assert small.get_submodule("recurrent").input_size == left < 6
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))
    rows = [row for row in bp.structures(net, example_input=x) if row.gate == "units_gate"]
    assert rows[0].rules == "units, recurrent"


@pytest.mark.parametrize("recurrent", LAYERS)
def test_expected_parameters_are_those_of_what_is_left(recurrent: Any) -> None:
    x = torch.randint(20, (3, 7))
    net = bp.convert(Words(recurrent(), nn.ReLU()).eval(), example_input=x, skip=["recurrent"])
    expected = bp.pruning.ExpectedCost(net, x, ("params",))
    for seed in range(2):
        switch_off(net, seed=seed)
        theta = {name: gate.theta.detach() for name, gate in gates_of(net).items()}
        assert expected(theta)["params"].item() == bp.cost(bp.compact(net, example_input=x)).params


@pytest.mark.parametrize("recurrent", LAYERS)
def test_constants_go_into_the_biases_for_the_input(recurrent: Any) -> None:
    torch.manual_seed(0)
    layer, x = recurrent().double(), torch.randn(2, 5, 6).double()
    constants = torch.tensor([0.5, 0, 0, -2, 0, 0]).double()
    x[..., constants != 0] = constants[constants != 0]
    expected = layer(x)[0]
    fold = operation_of(layer).fold
    assert fold is not None
    assert fold(layer, constants) == ["bias_ih_l0", "bias_ih_l0_reverse"][: 1 + layer.bidirectional]
    x[..., constants != 0] = 0.0
    torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=1e-12)


def test_a_constant_needs_a_bias_and_a_gate_behind_silences_what_reads_alone() -> None:
    net = nn.Sequential(nn.Linear(5, 6), Gate(6, dim=-1), nn.Sigmoid(), First(LAYERS[1](bias=False)), nn.Linear(4, 2))
    x = torch.randn(2, 5, 5)
    with pytest.raises(GateError, match=r"gate '1'.* 0\.5 .* 3\.inner has no bias to take up the constant"):
        bp.BayesianNet(net, num_data=10, example_input=x)
    gate = Gate(4, dim=-1)
    net = nn.Sequential(First(LAYERS[1]()), gate, nn.Linear(4, 2))
    bnn = bp.BayesianNet(net, num_data=10, example_input=torch.randn(2, 5, 6)).eval()
    with torch.no_grad():
        gate.theta[:2] = 0.0
    small: Any = bp.compact(bnn)
    x = torch.randn(2, 5, 6)
    assert torch.allclose(small(x), net(x), atol=1e-6)
    assert small.get_submodule("0.inner").hidden_size == 4 and small.get_submodule("2").in_features == 2


class First(nn.Module):
    """What a layer gives first."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


@pytest.mark.parametrize(
    "table", [nn.EmbeddingBag(20, 6), nn.EmbeddingBag(20, 6, mode="max"), nn.EmbeddingBag(20, 6, mode="sum")]
)
def test_bags_of_embeddings(table: nn.EmbeddingBag) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(table, nn.ReLU(), nn.Linear(6, 3)).double().eval(), torch.randint(20, (3, 7))
    net = bp.convert(model, example_input=x)
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("0").embedding_dim == small.get_submodule("2").in_features != 6
    assert distance(small(x), net(x)) < 1e-12


def test_tables_that_stay() -> None:
    """One whose rows are scaled by their norm, and one that is the last layer's weight too."""
    x = torch.randint(20, (3, 7))
    scaled = nn.Sequential(nn.Embedding(20, 6, max_norm=1.0), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert list(gates_of(bp.convert(scaled, example_input=x))) == ["1_gate"]
    tied = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6), nn.Linear(6, 20, bias=False))
    tied[4].weight = tied[0].weight
    net = bp.convert(tied.double(), example_input=x)
    assert list(gates_of(net)) == ["1_gate"]
    assert net.get_submodule("4").weight is net.get_submodule("0").weight
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12
