"""What records say of operations is so: of each that a trait is claimed for, on numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.layers import Gate, NormalLayer, give_normal_slabs
from bayesprune.ops import OPERATIONS, Operation, draws, operation_of, register
from bayesprune.ops.names import by_name

BUILT: dict[type[nn.Module], Callable[[], nn.Module]] = {
    nn.BatchNorm1d: lambda: nn.BatchNorm1d(4), nn.BatchNorm2d: lambda: nn.BatchNorm2d(4),
    nn.BatchNorm3d: lambda: nn.BatchNorm3d(4), nn.PReLU: lambda: nn.PReLU(4), Gate: lambda: Gate(4),
    **{kind: lambda kind=kind: kind(4, affine=True, track_running_stats=True) for kind in (
        nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    )},
    nn.Embedding: lambda: nn.Embedding(3, 4), nn.EmbeddingBag: lambda: nn.EmbeddingBag(3, 4),
    nn.LSTM: lambda: nn.LSTM(3, 4), nn.GRU: lambda: nn.GRU(3, 4), nn.RNN: lambda: nn.RNN(3, 4),
    **{kind: lambda kind=kind: kind(3, 4, gate=Gate(4, dim=-1, per_batch=True)) for kind in (
        layers.LSTM, layers.GRU, layers.RNN,
    )},
    nn.Linear: lambda: nn.Linear(3, 4), layers.Linear: lambda: layers.Linear(3, 4, gate="unit"),
    **{kind: lambda kind=kind: kind(3, 4, 2) for kind in (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, layers.Conv1d,
        layers.Conv2d, layers.ConvTranspose2d,
    )},
}  # fmt: skip
"""One module of every class that has parts; those with Normal weights are made of them."""
INNER = {layers.LSTM: 4, layers.GRU: 3}
"""How many rows of the weights of recurrent layers make one unit."""
GIVEN: dict[str, tuple[float, ...]] = {
    "pow": (2,), "_threshold": (0.1, 0.2), "Threshold": (0.1, 0.2), "clamp": (0.2, 0.6),
    "clamp_min": (0.3,), "clamp_max": (0.3,),
}  # fmt: skip
"""By name of a class, function or method, the numbers that it needs."""


def calls(operation: Operation) -> list[Callable[..., Any]]:
    """All ways to compute an operation of tensors, with numbers filled in."""

    def called(target: Any) -> Callable[..., Any]:
        if isinstance(target, str):
            return lambda x, *others: getattr(x, target)(*others, *GIVEN.get(target, ()))
        return lambda *xs: target(*xs, *GIVEN.get(target.__name__, ()))

    def of_maps(module: nn.Module) -> Callable[..., Any]:
        digit = type(module).__name__[-2]  # as in Dropout2d
        lead = [1] * int(digit) if digit.isdigit() else []
        return lambda x: module(x.view(*lead, *x.shape)).view(x.shape)

    modules = [of_maps(module(*GIVEN.get(module.__name__, ())).eval()) for module in operation.modules]
    return [*modules, *map(called, operation.functions + operation.methods)]


POINTWISE = [operation for operation in OPERATIONS if operation.pointwise]
ARITHMETIC = [operation for operation in OPERATIONS if operation.kind in ("sum", "difference", "product")]


@pytest.mark.parametrize("operation", POINTWISE, ids=lambda o: o.name)
def test_each_entry_follows_from_that_entry_alone(operation: Operation) -> None:
    x = torch.rand(3, 4, dtype=torch.float64) * 0.9 + 0.05
    for call in calls(operation):
        y = call(x.clone())
        assert y.shape == x.shape
        for i in range(3):
            for k in range(4):
                alone = call(x[i : i + 1, k : k + 1].clone())
                torch.testing.assert_close(alone, y[i : i + 1, k : k + 1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if o.memory == "own" and o.pointwise], ids=lambda o: o.name
)
def test_a_result_of_its_own_shares_no_memory(operation: Operation) -> None:
    for call in calls(operation):
        x = torch.rand(3, 4)
        assert call(x).untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@pytest.mark.parametrize("operation", ARITHMETIC, ids=lambda o: o.name)
def test_sums_and_products(operation: Operation) -> None:
    a, b, none = *torch.randn(2, 3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    for call in calls(operation):
        if operation.kind == "product":
            assert torch.equal(call(none, b), none) and torch.equal(call(a, none), none)
        else:
            assert torch.equal(call(a, none), a)
            torch.testing.assert_close(call(a, b), call(a, none) + call(none, b), rtol=0, atol=1e-15)
            assert torch.equal(call(none, b), b if operation.kind == "sum" else -b)
    for inplace, plain in operation.inplace.items():
        assert torch.equal(inplace(a.clone(), b), plain(a, b))


def with_parts() -> list[nn.Module]:
    modules = [build() for build in BUILT.values()]
    for module in [build() for build in BUILT.values()]:
        net = nn.Sequential(module)
        give_normal_slabs(net, 0.1)
        modules += [layer for layer in net if isinstance(layer, NormalLayer)]
    return modules


def test_every_class_with_parts_is_tried() -> None:
    tried = {type(module) for module in with_parts()}
    assert {kind for o in OPERATIONS if o.parts is not None for kind in o.modules} == tried


PARTED = with_parts()
FOLDING = [m for m in PARTED if operation_of(m).fold is not None and not isinstance(m, nn.RNNBase)]


@pytest.mark.parametrize("module", PARTED, ids=lambda m: type(m).__name__)
def test_parts_have_the_sizes_that_attributes_tell(module: nn.Module) -> None:
    """Every dimension along inputs or outputs is as long as their number, of inner gates of recurrent layers together
    several times as long, and no parameter is left out but a gate's."""
    parts = operation_of(module).parts
    assert parts is not None
    found = parts(module)
    number = {role: getattr(module, attribute) for attribute, role in found.sizes.items()}
    for name, roles in found.tensors.items():
        shape = getattr(module, name).shape
        times = [int(dim == 0) * (INNER.get(type(module), 1) - 1) + 1 for dim in range(len(roles))]
        sizes = [n * number[role] for n, role in zip(times, roles, strict=True) if role]
        assert [shape[dim] for dim, role in enumerate(roles) if role] == sizes, name
    own = {name for name, _ in module.named_parameters() if not name.startswith("gate.")}
    assert set(found.tensors) >= own


@pytest.mark.parametrize("module", FOLDING, ids=lambda m: type(m).__name__)
def test_folding_adds_what_constant_inputs_contribute(module: nn.Module) -> None:
    fold, module = operation_of(module).fold, module.double().eval()
    assert fold is not None
    dims = module.weight.dim() - 2
    constants = torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)
    x = torch.randn(2, 3, *[5] * dims, dtype=torch.float64)
    x[:, constants != 0] = constants[constants != 0].view(-1, *[1] * dims)
    with torch.no_grad():
        expected = module(x)
        assert "bias" in fold(module, constants)
        x[:, constants != 0] = 0.0
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


class Mine(nn.Dropout):
    """A dropout of the user's."""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Dropout(0.5), True), (nn.Dropout2d(0.0), False), (nn.AlphaDropout(0.1), True), (Mine(0.5), True),
        (nn.RReLU(), True), (nn.ReLU(), False), (nn.Linear(2, 2), False), (nn.LSTM(2, 2, 2, dropout=0.5), True),
        (nn.LSTM(2, 2), False), (nn.MultiheadAttention(4, 2, dropout=0.1), True), (nn.MultiheadAttention(4, 2), False),
    ],
)  # fmt: skip
def test_which_layers_draw_while_training(module: nn.Module, expected: bool) -> None:
    assert draws(module) is expected


def test_normal_weights_draw() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    give_normal_slabs(net, 0.1)
    assert draws(net[0])


def test_nothing_has_two_records() -> None:
    with pytest.raises(AssertionError, match="two records: relu, mine"):
        register(Operation(name="mine", functions=(torch.relu,)))


def test_what_has_no_record_says_nothing() -> None:
    unknown = operation_of(Mine())
    assert (unknown.name, unknown.entries, unknown.parts, unknown.arguments, unknown.files) == (
        "",
        None,
        None,
        None,
        False,
    )


def test_every_function_of_model_files_has_a_public_name() -> None:
    """A file names functions as torch and Python do, so one that has no such name could not be written."""
    functions = {function for operation in OPERATIONS if operation.files for function in operation.all_functions}
    assert functions == set(by_name(functions).values())


def test_names_are_looked_up_in_torch_special_too() -> None:
    assert list(by_name([torch.special.bessel_j0, torch.sinc])) == ["torch.sinc", "special.bessel_j0"]
