"""Hidden units of recurrent layers: found, silent where they are off, cut and counted, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import ConfigError, GateError
from bayesprune.infer import BatchObjective, get_estimator
from bayesprune.layers import Gate, gates_of
from tests.conversion.small import distance, switch_off

KINDS = [nn.LSTM, nn.GRU, nn.RNN]
GATED = [layers.LSTM, layers.GRU, layers.RNN]


class Words(nn.Module):
    """A table, a recurrent layer, and a map of what is read of it, in one of several ways."""

    def __init__(self, recurrent: Any, reads: str):
        super().__init__()
        self.table, self.recurrent, self.reads = nn.Embedding(20, 6), recurrent, reads
        self.out = nn.Linear(recurrent.hidden_size * (1 + recurrent.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        sequence = self.table(x)
        if self.reads == "from zeros":
            count = self.recurrent.num_layers * (1 + self.recurrent.bidirectional)
            h = torch.zeros(count, x.shape[0], self.recurrent.hidden_size, dtype=torch.float64).to(x.device)
            y, state = self.recurrent(sequence, (h, h) if isinstance(self.recurrent, nn.LSTM) else h)
        else:
            y, state = self.recurrent(sequence)
        h, *cells = state if isinstance(self.recurrent, nn.LSTM) else (state,)
        if self.reads == "cells":
            return self.out(torch.cat((cells[0][-2], cells[0][-1]), 1))
        if self.reads == "states" and self.recurrent.bidirectional:
            return self.out(torch.cat((h[-2, :, :], h[-1]), dim=1))
        if self.reads == "states":
            return self.out(h[-1])
        if self.reads == "all states":
            return self.out(h.permute(1, 0, 2).reshape(x.shape[0], -1))
        return self.out(y.mean(1) if self.reads == "outputs" else y[:, -1])


def tokens() -> Tensor:
    return torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0))


DEEP = {"num_layers": 2, "bidirectional": True, "dropout": 0.2}


READS: list[tuple[str, Any]] = [("outputs", DEEP), ("states", {}), ("states", DEEP), ("from zeros", {})]
QUICK = (nn.LSTM, 2), (nn.GRU, 3), (nn.RNN, 1)


@pytest.mark.parametrize(
    "kind, reads, options",
    [
        pytest.param(kind, *READS[place], marks=() if (kind, place) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for place in range(len(READS))
    ],
)
def test_units_go_with_all_that_reads_them(kind: Any, reads: str, options: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Words(kind(6, 5, batch_first=True, **options), reads).double().eval(), tokens()
    net = bp.convert(model, example_input=x)
    ends = ["l0", "l0_reverse", "l1", "l1_reverse"] if options else [""]
    names = [f"recurrent.{end}".strip(".") for end in ends]
    assert {name: gate.size for name, gate in gates_of(net).items()} == {
        "table_gate": 6,
        **{f"{name}.gate": 5 for name in names},
    }
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    left = [int(gates_of(net)[f"{name}.gate"].mode().sum()) for name in names]
    assert [small.get_submodule(name).hidden_size for name in names] == left != [5] * len(left)
    assert all(type(small.get_submodule(name)) is kind for name in names)
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))
    theta = {name: gate.theta.detach() for name, gate in gates_of(net).items()}
    expected, cost = bp.pruning.ExpectedCost(net, x)(theta), bp.cost(small, example_input=x)
    assert expected["params"].item() == cost.params
    assert expected["macs"].item() == pytest.approx(cost.macs, rel=1e-12)


def test_expected_parameters_are_the_mean_over_all_gates() -> None:
    """Of the weights by which units read each other there are n², of which the mean is not that of n, squared."""
    net = bp.convert(Words(nn.GRU(6, 3, batch_first=True), "outputs").eval(), example_input=tokens())
    gates = gates_of(net)
    p = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    on = torch.tensor([[(k >> i) & 1 for i in range(3)] for k in range(8)], dtype=torch.float64)
    n, weight = on.sum(1), (p * on + (1 - p) * (1 - on)).prod(1)
    counts = 20 * 6 + 3 * n * (6 + n + 2) + 3 * n + 3
    theta = {"table_gate": torch.ones(6), "recurrent.gate": p}
    found = bp.pruning.ExpectedCost(net, tokens(), ("params",))(theta)["params"].item()
    none = weight[0] * 20 * 6  # nothing then reads the table, of which surgery keeps what one unit reads
    assert found == pytest.approx(float((weight * counts).sum() - none), rel=0.02) and set(theta) == set(gates)


@pytest.mark.slow
def test_states_that_lie_side_by_side_and_those_that_stay() -> None:
    x = tokens()
    for recurrent, reads, hidden in [
        (nn.GRU(6, 5, batch_first=True, bidirectional=True), "all states", True),
        (nn.LSTM(6, 5, batch_first=True, bidirectional=True), "cells", False),
        (nn.LSTM(6, 5, proj_size=4, batch_first=True), "outputs", False),
    ]:
        model = Words(recurrent, reads)
        model.out = nn.Linear(10 if recurrent.bidirectional else 4, 3)
        net = bp.convert(model.double().eval(), example_input=x)
        assert any(name.endswith("gate") and "recurrent" in name for name in gates_of(net)) == hidden
        switch_off(net)
        assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12


@pytest.mark.parametrize("kind, gated", list(zip(KINDS, GATED, strict=True)))
@pytest.mark.parametrize("bias", [True, False])
def test_a_unit_that_is_off_is_not_there(kind: Any, gated: Any, bias: bool) -> None:
    """What others give is that of a smaller layer without it, whatever draws are handed in."""
    torch.manual_seed(0)
    gate = Gate(5, dim=-1, per_batch=True)
    layer = gated(4, 5, gate=gate, bias=bias, batch_first=True).double()
    x, on = torch.randn(3, 6, 4).double(), torch.tensor([1.0, 0, 1, 1, 0]).double()
    small = kind(4, 3, bias=bias, batch_first=True).double()
    times, chosen = len(layer.weight_ih_l0) // 5, on.bool()
    with torch.no_grad():
        for name, p in small.named_parameters():
            old = getattr(layer, name)[chosen.repeat(times)]
            p.copy_(old[:, chosen] if "hh" in name and p.dim() == 2 else old)
    draw = layers.Draw([5])
    gate.connect(draw, 0)
    for xi in (on, on.expand(3, 5)):
        with draw.use(xi):
            torch.testing.assert_close(gate(layer(x))[..., chosen], small(x)[0], rtol=0, atol=1e-12)
            assert not gate(layer(x))[..., ~chosen].any()
    with draw.use(torch.ones(5).double(), known=[True]):
        assert torch.equal(layer(x), kind.forward(layer, x)[0])


def test_a_unit_is_kept_for_the_others_whatever_follows() -> None:
    """A second gate behind the layer silences no reading by other units, and so takes none away."""
    torch.manual_seed(0)
    gate, behind = Gate(5, dim=-1, per_batch=True), Gate(5, dim=-1)
    net = nn.Sequential(layers.LSTM(4, 5, gate=gate), gate, behind, nn.Linear(5, 2)).double().eval()
    x = torch.randn(6, 3, 4).double()
    with torch.no_grad():
        gate.theta[0] = behind.theta[1] = 0.0
    small: Any = bp.compact(net, example_input=x)
    assert small.get_submodule("0").hidden_size == 4 and small.get_submodule("3").in_features == 3
    assert distance(small(x), net(x)) < 1e-12


def test_widths_that_are_multiples() -> None:
    torch.manual_seed(0)
    model, x = Words(nn.LSTM(6, 8, batch_first=True), "outputs").double().eval(), tokens()
    net = bp.convert(model, example_input=x)
    with torch.no_grad():
        gates_of(net)["recurrent.gate"].theta[:3] = 0.0
    small = bp.compact(net, example_input=x, round_to=4)
    assert small.get_submodule("recurrent").hidden_size == 8
    assert distance(small(x), net(x)) < 1e-12


def test_gates_of_units_are_learned() -> None:
    """The estimator's mean is the derivative by enumeration: a pass is computed anew from the layer on."""
    torch.manual_seed(0)
    gate = Gate(3, dim=-1, per_batch=True, theta=0.6)
    net = nn.Sequential(layers.GRU(4, 3, gate=gate, batch_first=True), gate, nn.Flatten(), nn.Linear(15, 1))
    x, y = torch.randn(8, 5, 4), torch.ones(8, 1)
    bnn = bp.BayesianNet(net, "gaussian", num_data=100, example_input=x)
    slopes = {}
    for name, count in (("exact", 1), ("disarm", 80)):
        found = []
        for _ in range(count):
            bnn.theta.grad = None
            xi = bnn.sample_gates(x)
            get_estimator(name)(BatchObjective(bnn, x, y), bnn.theta, xi, bnn.price).backward()
            found.append(bnn.theta.grad.clone())
        slopes[name] = torch.stack(found)
    mean, error = slopes["disarm"].mean(0), slopes["disarm"].std(0) / 80**0.5
    assert bool(((mean - slopes["exact"][0]).abs() < 5 * error + 1e-6).all())


def test_a_run_removes_units() -> None:
    torch.manual_seed(0)
    x = torch.randn(96, 5, 4)
    y = (x[:, :, 0].sum(1) > 0).long()

    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.out = nn.LSTM(4, 12, batch_first=True), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.recurrent(x)[1][0][-1])

    net = bp.convert(Sign(), example_input=x[:2])
    bnn = bp.BayesianNet(net, num_data=96, example_input=x[:2], prior=bp.distributions.FlatteningPrior(4.0))
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    history = bp.fit(bnn, loader, epochs=8, settings=bp.training.Settings(lr=1e-2))
    assert len(history.removals) > 0
    small: Any = bp.compact(bnn.eval(), example_input=x[:2])
    assert small.get_submodule("recurrent").hidden_size == 12 - len(history.removals)
    assert distance(small(x), bnn.net(x)) < 1e-5


def test_refused() -> None:
    with pytest.raises(ConfigError, match="LSTM: the gate must have size 3, and one draw a batch"):
        layers.LSTM(4, 3, gate=Gate(3, dim=-1))
    with pytest.raises(ConfigError, match="RNN: nonlinearity must be 'tanh' or 'relu', got 'sin'"):
        layers.RNN(4, 3, gate=Gate(3, dim=-1, per_batch=True), nonlinearity="sin")
    layer = layers.GRU(4, 3, gate=Gate(3, dim=-1, per_batch=True))
    with pytest.raises(GateError, match="GRU: input must have 3 dimensions"):
        layer(torch.zeros(2, 4))
    with pytest.raises(GateError, match="is read behind 0 as well, where the gate has to be called"):
        bp.BayesianNet(nn.Sequential(layer, nn.Linear(3, 2)), num_data=1, example_input=torch.zeros(2, 3, 4))
