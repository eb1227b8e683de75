"""What a gate does to its input: values by hand, with a draw and without."""

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError, GateError
from bayesprune.layers import Draw, Gate


def verify_gate(gate: Gate, x: Tensor, xi: Tensor, expected: Tensor) -> None:
    """With ``xi`` drawn the output is ``expected``; without a draw it is that of the mode, before and after."""
    draw = Draw([gate.size])
    gate.connect(draw, 0)
    at_mode = gate(x)
    with draw.use(xi):
        assert torch.equal(gate(x), expected)
    assert draw.slices is None and draw.known == ()
    assert torch.equal(gate(x), at_mode)


def set_theta(gate: Gate, values: list[float]) -> Gate:
    with torch.no_grad():
        gate.theta.copy_(torch.tensor(values))
    return gate


FEATURES = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_one_draw_for_the_batch() -> None:
    verify_gate(Gate(3), FEATURES, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([[1.0, 0.0, 3.0], [4.0, 0.0, 6.0]]))


def test_one_row_is_one_draw_for_the_batch() -> None:
    verify_gate(Gate(3), FEATURES, torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 6.0]]))


def test_one_draw_an_example() -> None:
    xi = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    verify_gate(Gate(3), FEATURES, xi, torch.tensor([[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]]))


def test_channels_of_images() -> None:
    x = torch.arange(1.0, 17.0).view(2, 2, 2, 2)
    expected = x.clone()
    expected[0, 1] = 0
    expected[1, 0] = 0
    verify_gate(Gate(2), x, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), expected)


def test_last_dimension_of_a_sequence() -> None:
    x = torch.arange(1.0, 13.0).view(2, 2, 3)
    expected = x * torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]])
    verify_gate(Gate(3, dim=-1), x, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), expected)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_one_gate_multiplies_the_whole_tensor(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    verify_gate(Gate(1), x, torch.tensor([0.0]), torch.zeros(shape))
    expected = x.clone()
    expected[0] = 0
    verify_gate(Gate(1), x, torch.tensor([[0.0], [1.0]]), expected)


def test_mode_is_strictly_above_a_half_and_serves_without_a_draw() -> None:
    gate = set_theta(Gate(3), [0.5, 0.51, 0.0])
    assert gate.mode().tolist() == [0.0, 1.0, 0.0]
    for module in (gate, gate.eval()):
        assert torch.equal(module(FEATURES), FEATURES * torch.tensor([0.0, 1.0, 0.0]))


def test_the_mode_carries_no_gradient_but_the_input_does() -> None:
    gate = set_theta(Gate(3), [0.9, 0.1, 0.9])
    x = FEATURES.clone().requires_grad_()
    gate(x).sum().backward()
    assert gate.theta.grad is None
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0, 1.0]] * 2))


def test_derivative_of_a_draw_is_the_gated_input() -> None:
    gate, draw = Gate(3), Draw([3])
    gate.connect(draw, 0)
    xi = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], requires_grad=True)
    with draw.use(xi):
        gate(FEATURES).sum().backward()
    assert torch.equal(xi.grad, FEATURES)


def test_slices_of_one_vector_go_to_their_slots_and_contexts_nest() -> None:
    first, second, draw = Gate(2), Gate(1), Draw([2, 1])
    first.connect(draw, 0)
    second.connect(draw, 1)
    ones = torch.ones(1, 2)
    with draw.use(torch.tensor([0.0, 1.0, 0.0])):
        assert first(ones).tolist() == [[0.0, 1.0]] and second(ones).tolist() == [[0.0, 0.0]]
        with draw.use(torch.tensor([1.0, 0.0, 1.0])):
            assert first(ones).tolist() == [[1.0, 0.0]] and second(ones).tolist() == [[1.0, 1.0]]
        assert first(ones).tolist() == [[0.0, 1.0]]


def test_a_draw_ends_with_its_context_even_after_an_error() -> None:
    draw = Draw([1])
    with pytest.raises(KeyError), draw.use(torch.ones(1), [True]):
        raise KeyError
    assert draw.slices is None and draw.known == ()


def test_state_says_what_is_known() -> None:
    gate, units, draw = Gate(1, per_batch=True, theta=0.2), Gate(2), Draw([1, 2])
    gate.connect(draw, 0)
    units.connect(draw, 1)
    assert gate.state() is False and units.state() is None
    with draw.use(torch.tensor([1.0, 1.0, 0.0]), known=[True]):
        assert gate.state() is True and units.state() is None
    with draw.use(torch.tensor([1.0, 1.0, 0.0])):
        assert gate.state() is None


def test_a_gate_known_to_be_on_multiplies_nothing() -> None:
    gate, draw = Gate(1, per_batch=True), Draw([1])
    gate.connect(draw, 0)
    with draw.use(torch.ones(1), known=[True]):
        assert gate(FEATURES) is FEATURES
    with draw.use(torch.ones(1)):
        assert gate(FEATURES) is not FEATURES


def test_a_gate_that_selects() -> None:
    gate, draw = set_theta(Gate(2), [0.9, 0.1]), Draw([2])
    gate.index, gate.in_size = torch.tensor([0, 2]), 3
    gate.connect(draw, 0)
    assert torch.equal(gate(FEATURES), torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
    with draw.use(torch.tensor([0.0, 1.0])):
        assert torch.equal(gate(FEATURES), torch.tensor([[0.0, 3.0], [0.0, 6.0]]))
    with pytest.raises(GateError, match=r"Gate of size 3 .* shape \(2, 2\), which has 2 there"):
        gate(FEATURES[:, :2])


def test_output_keeps_the_input_dtype() -> None:
    assert Gate(3)(FEATURES.double()).dtype == torch.float64
    assert Gate(3)(FEATURES.bfloat16()).dtype == torch.bfloat16


def test_wrong_size_is_refused_with_what_to_do() -> None:
    message = r"Gate of size 4 along dimension 1 received an input of shape \(2, 3\), which has 3 there; make the gate"
    with pytest.raises(GateError, match=message):
        Gate(4)(FEATURES)


@pytest.mark.parametrize("gate", [Gate(3, dim=-1), Gate(3, dim=0)])
def test_a_batch_is_not_gated(gate: Gate) -> None:
    """A single example without its batch dimension."""
    with pytest.raises(
        GateError, match=r"shape \(3,\), whose dimension there is the batch; .* a batch of one: x\[None\]"
    ):
        gate(FEATURES[0])
    assert torch.equal(Gate(1, dim=-1)(FEATURES[0]), FEATURES[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a whole number, at least 1, got 0"),
        ({"size": 2, "theta": 1.5}, r"theta must be in \[0, 1\], got 1.5"),
        ({"size": 2, "theta": -0.1}, r"theta must be in \[0, 1\], got -0.1"),
        ({"size": 2, "theta": float("nan")}, r"theta must be in \[0, 1\], got nan"),
    ],
)
def test_constructor_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Gate(**arguments)


def test_theta_is_the_only_parameter() -> None:
    gate = Gate(3, theta=0.25)
    assert {name: p.tolist() for name, p in gate.named_parameters()} == {"theta": [0.25] * 3}
    assert repr(gate) == "Gate(3, dim=1)" and repr(Gate(1, per_batch=True)) == "Gate(1, dim=1, per_batch=True)"


LAYERS = {
    "Linear": (lambda **kw: layers.Linear(3, 4, **kw), nn.Linear, torch.randn(2, 3), (1, 4)),
    "Linear on a sequence": (lambda **kw: layers.Linear(3, 4, **kw), nn.Linear, torch.randn(2, 5, 3), (1, 1, 4)),
    "Conv1d": (lambda **kw: layers.Conv1d(3, 4, 2, **kw), nn.Conv1d, torch.randn(2, 3, 5), (1, 4, 1)),
    "Conv2d": (lambda **kw: layers.Conv2d(3, 4, 2, padding=1, **kw), nn.Conv2d, torch.randn(2, 3, 5, 5), (1, 4, 1, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gated_layer_is_its_torch_layer_times_its_gates(name: str) -> None:
    make, plain, x, shape = LAYERS[name]
    layer = make(gate="unit")
    dense = plain.forward(layer, x)
    assert layer.gate.size == 4 and not layer.gate.per_batch
    assert torch.equal(layer(x), dense)  # θ starts above ½
    set_theta(layer.gate, [1.0, 0.0, 0.3, 0.8])
    assert torch.equal(layer(x), dense * torch.tensor([1.0, 0.0, 0.0, 1.0]).view(shape))
    draw = Draw([4])
    layer.gate.connect(draw, 0)
    xi = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    with draw.use(xi):
        assert torch.equal(layer(x), dense * xi.view(2, *shape[1:]))


@pytest.mark.parametrize("name", LAYERS)
def test_gated_layer_as_a_whole_or_without_gate(name: str) -> None:
    make, plain, x, _ = LAYERS[name]
    layer = make(gate="layer", theta=0.1)
    assert layer.gate.size == 1 and layer.gate.per_batch
    assert not layer(x).any()
    ungated = make()
    assert ungated.gate is None and torch.equal(ungated(x), plain.forward(ungated, x))


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "Conv2d"])
def test_unknown_kind_of_gate_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: gate must be 'unit', 'layer' or None, got 'filter'"):
        LAYERS[name][0](gate="filter")


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 2), (6, 4, 3)])
def test_rows_that_examples_have_in_turn(shape: tuple[int, ...]) -> None:
    """Values and derivatives are those of the rows repeated."""
    x = torch.randn(shape).double()
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    gate, draw = Gate(3, dim=1 if shape[1] == 3 else -1), Draw([3])
    gate.connect(draw, 0)
    found = []
    for repeats in (1, 3):
        rows, given = torch.tensor([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]]).double().requires_grad_(), x.clone()
        with draw.use(rows.repeat(repeats, 1)):
            y = gate(given.requires_grad_())
        y.square().sum().backward()
        found.append((y, given.grad, rows.grad))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
