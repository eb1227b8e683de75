"""Layers that are called in several places: found, gated and cut for all of their calls alike, exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import GateError
from bayesprune.graph import trace
from bayesprune.graph.depth import gates_in_a_row
from bayesprune.layers import gates_of
from bayesprune.pruning import ExpectedCost
from tests.conversion.small import distance, switch_off


class Pair(nn.Module):
    """One encoder of both halves of what is given, with a normalisation, a depthwise convolution and one in groups."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.first, self.norm, self.apart = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6)
        self.second, self.out = nn.Conv2d(6, 8, 1, groups=groups), nn.Linear(16, 2)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def encoded(self, x: Tensor) -> Tensor:
        x = self.apart(F.relu(self.norm(self.first(x))))
        return F.relu(self.second(F.relu(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.encoded(x[:, :3]), self.encoded(x[:, 3:])], 1))


class Pyramid(nn.Module):
    """Maps of two sizes, which one head reads, as detectors have it: two layers, and two that give outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(6, 4, 3), nn.Conv2d(4, 5, 3, stride=2)
        self.sides = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(5, 4, 1)])
        self.head = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU())
        self.kinds, self.boxes = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        large = F.relu(self.stem(x))
        maps = self.sides[0](large), self.sides[1](F.relu(self.down(large)))
        read = [self.head(each) for each in maps]
        return torch.cat([torch.cat([self.kinds(each), self.boxes(each)], 1).flatten(2) for each in read], 2)


class Loop(nn.Module):
    """A recurrent layer by hand, from zeros of its own, or from what it is given first."""

    def __init__(self, begins: str = "zeros"):
        super().__init__()
        self.given, self.held, self.out, self.begins = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2), begins

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 6, dtype=x.dtype, device=x.device)
        if self.begins != "zeros":
            h = torch.tanh(self.given(x[:, 0]))
        for step in range(3):
            h = torch.tanh(self.given(x[:, step]) + self.held(h))
        return self.out(h)


class Steps(nn.Module):
    """Two cells of torch's, one behind the other, called step by step; all states of the second are read, or its last.

    Args:
        kind: The cells' class.
        whole: Whether all states are read, and the loop begins with zeros of its own.
    """

    def __init__(self, kind: type[nn.Module], whole: bool):
        super().__init__()
        self.first, self.second, self.out, self.whole = kind(3, 5), kind(5, 4), nn.Linear(4, 2), whole

    def forward(self, x: Tensor) -> Tensor:
        a = b = None
        if self.whole:
            a, b = x.new_zeros(x.shape[0], 5), torch.zeros(len(x), 4, dtype=x.dtype)
            if isinstance(self.first, nn.LSTMCell):
                a, b = (a, torch.zeros_like(a)), (b, b.clone())
        found = []
        for step in range(2):
            a = self.first(x[:, step], a)
            b = self.second(a[0] if isinstance(a, tuple) else a, b)
            found.append(b[0] if isinstance(b, tuple) else b)
        return self.out(torch.stack(found, 1) if self.whole else found[-1])


def maps() -> Tensor:
    return torch.randn(2, 6, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def steps() -> Tensor:
    return torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def verify(model: nn.Module, x: Tensor, gates: dict[str, int], seed: int = 0) -> nn.Module:
    """All gates on: the model; off at random: the compacted network."""
    net = bp.convert(model, example_input=x)
    for gate in gates_of(net).values():
        nn.init.ones_(gate.theta)
    assert {name: gate.size for name, gate in gates_of(net).items()} == gates
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net, seed=seed)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    return small


def test_parameters_go_as_expected() -> None:
    x = steps()
    net = bp.convert(Loop("first").double().eval(), example_input=x)
    switch_off(net)
    expected = ExpectedCost(net, x)({name: gate.theta.detach() for name, gate in gates_of(net).items()})
    size = bp.cost(bp.compact(net, example_input=x), example_input=x)
    assert (float(expected["params"]), float(expected["macs"])) == pytest.approx((size.params, size.macs))


@pytest.mark.parametrize(
    ("build", "x", "gates"),
    [
        (Pair, maps, {"first_gate": 6, "second_gate": 8}),
        (lambda: Pair(2), maps, {"first_gate": 6, "second_gate": 8}),
        (Pyramid, maps, {"stem_gate": 4, "down_gate": 5, "sides.0_gate": 4, "head.0_gate": 6, "head.2_gate": 4}),
        (Loop, steps, {"given_gate": 6}),
        (lambda: Loop("first"), steps, {"given_gate": 6}),
    ],
)
def test_a_layer_that_is_called_in_several_places(
    build: Callable[[], nn.Module], x: Callable[[], Tensor], gates: dict[str, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    small = verify(build().double().eval(), x(), gates)
    bp.save(small, tmp_path / "model")
    assert torch.equal(bp.load(tmp_path / "model")(x()), small(x()))


@pytest.mark.parametrize(
    ("kind", "whole"), [(nn.RNNCell, False), (nn.GRUCell, True), (nn.LSTMCell, False), (nn.LSTMCell, True)]
)
def test_units_of_cells_that_a_loop_calls(kind: type[nn.Module], whole: bool) -> None:
    torch.manual_seed(0)
    small = verify(Steps(kind, whole).double().eval(), steps(), {"first.ih_gate": 5, "second.ih_gate": 4}, seed=1)
    held = small.get_submodule("second.hh")
    times = {nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4}[kind]
    assert held.in_features < 4 and held.out_features == times * held.in_features


class Spelled(nn.Module):
    """A cell that is called by the names of torch's arguments, or whose own weights are read.

    Args:
        kind: The cell's class.
        read: The name of what is read of the cell for the kind of its first state; none to give it by name.
    """

    def __init__(self, kind: type[nn.Module], read: str = ""):
        super().__init__()
        self.given, self.cell, self.out, self.read = nn.Linear(3, 6), kind(6, 5), nn.Linear(5, 2), read

    def forward(self, x: Tensor) -> Tensor:
        like = getattr(self.cell, self.read) if self.read else x
        state = torch.zeros(x.shape[0], self.cell.hidden_size, dtype=like.dtype, device=like.device)
        state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for step in range(2):
            given = torch.relu(self.given(x[:, step]))
            state = self.cell(given, state) if self.read else self.cell(hx=state, input=given)
        return self.out(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize(
    ("kind", "read"),
    [(nn.LSTMCell, ""), (nn.RNNCell, ""), (nn.GRUCell, ""), (nn.GRUCell, "weight_hh"), (nn.LSTMCell, "bias_ih")],
)
def test_cells_are_called_and_read_by_the_names_that_torch_has(kind: type[nn.Module], read: str) -> None:
    torch.manual_seed(0)
    verify(Spelled(kind, read).double().eval(), steps(), {"given_gate": 6, "cell.ih_gate": 5})


class Alone(nn.Module):
    """A layer for all examples, and a cell that is called on steps of the first one alone.

    Args:
        kind: The cell's class.
    """

    def __init__(self, kind: type[nn.Module]):
        super().__init__()
        self.given, self.cell, self.left, self.right = nn.Linear(3, 6), kind(3, 5), nn.Linear(6, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(2):
            state = self.cell(x[0, step], state)
        last = state[0] if isinstance(state, tuple) else state
        return self.left(torch.relu(self.given(x[:, 0]))) + self.right(last)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_called_on_single_examples(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    verify(Alone(kind).double().eval(), steps(), {"given_gate": 6})


def test_one_gate_in_all_steps_of_a_loop_is_one_in_a_row() -> None:
    net = bp.convert(Loop().double().eval(), example_input=steps())
    assert gates_in_a_row(trace(net, steps())) == 1


def test_what_one_bias_cannot_take_up_is_refused() -> None:
    """A constant goes into the bias of a layer that is called once; of one that is called twice, in neither place."""

    class Half(nn.Module):
        def __init__(self, times: int):
            super().__init__()
            self.first, self.second, self.out, self.times = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), times

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(gate(torch.relu(self.first(x))))
            for _ in range(self.times):
                x = torch.sigmoid(self.second(x))
            return self.out(x)

    gate = layers.Gate(4)
    for times in (1, 2):
        net = Half(times)
        net.gate = gate
        if times == 1:
            bp.graph.check_gates(net)
        else:
            with pytest.raises(GateError, match=r"leaves the constant 0\.5 .*second is called more than once"):
                bp.graph.check_gates(net)


def test_a_branch_whose_layers_others_call_stays() -> None:
    """It could not go alone, and its parameters have one name."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.outer, self.out = (nn.Linear(*s) for s in ((3, 4), (4, 5), (5, 4), (4, 2)))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for _ in range(2):
                x = x + self.outer(torch.relu(self.inner(x)))
            return self.out(x)

    x = steps()
    net = bp.convert(Twice().double().eval(), example_input=x)
    assert {name: gate.size for name, gate in gates_of(net).items()} == {"inner_gate": 5}
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12 and small.get_submodule("inner").out_features < 5
    streams = bp.convert(Twice().double().eval(), example_input=x, streams=True)
    switch_off(streams)
    small = bp.compact(streams, example_input=x)
    assert distance(small(x), streams(x)) < 1e-12 and small.get_submodule("first").out_features < 4


class Layer(nn.Module):
    """Attention that is written out, and hidden units, each added to what it is given."""

    def __init__(self, size: int = 8, heads: int = 4):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.norm, self.up, self.down = nn.LayerNorm(size), nn.Linear(size, 6), nn.Linear(6, size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Deep(nn.Module):
    """One layer, applied twice (as in ALBERT)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.layer(x)))


@pytest.mark.parametrize("torchs", [False, True])
def test_a_layer_of_a_transformer_that_is_applied_again(torchs: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 6, batch_first=True) if torchs else Layer()
    names = ("layer.self_attn.gate", "layer.linear1_gate") if torchs else ("layer.heads_gate", "layer.up_gate")
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = verify(Deep(layer).double().eval(), x, dict(zip(names, (4, 6), strict=True)))
    assert small.get_submodule("layer.linear2" if torchs else "layer.down").in_features < 6
