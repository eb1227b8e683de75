"""Rectifiers of what is never negative, and identities: they go, and values and gradients stay."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.graph import gates_of
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import compact
from tests.pruning.verify import randomise_statistics, snapshot, verify_unchanged


class Function(nn.Module):
    """A convolution, and then what ``function`` makes of its output and of the network's input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(2, 3, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x), x)


def rectifiers(net: fx.GraphModule) -> int:
    modules = [net.get_submodule(str(node.target)) for node in net.graph.nodes if node.op == "call_module"]
    functions = [node.target for node in net.graph.nodes if node.op in ("call_function", "call_method")]
    return sum(type(m) is nn.ReLU for m in modules) + sum(f in (F.relu, torch.relu, "relu") for f in functions)


def verify_values(net: nn.Module, x: Tensor) -> fx.GraphModule:
    """Outputs, gradients and statistics are those of ``net`` in both modes, bit for bit; ``net`` is not touched."""
    net, x = copy.deepcopy(net).double(), x.double()
    for mode in (True, False):
        net.train(mode)
        before, structure = snapshot(net), str(net)
        plain = compact(net)
        verify_unchanged(net, before, structure)
        reference, inputs = copy.deepcopy(net), (x.clone().requires_grad_(), x.clone().requires_grad_())
        outputs = []
        for network, own in zip((plain, reference), inputs, strict=True):
            torch.manual_seed(0)
            outputs.append(network(own))
            (outputs[-1] - 0.3).square().sum().backward()
        assert torch.equal(*outputs) and torch.equal(inputs[0].grad, inputs[1].grad)
        parameters = dict(reference.named_parameters())
        assert all(torch.equal(p.grad, parameters[name].grad) for name, p in plain.named_parameters())
        after = reference.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in plain.state_dict().items() if name in after)
    return plain


POSITIVE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda y, x: F.relu(y),
    "torch.relu": lambda y, x: torch.relu(y),
    "method": lambda y, x: y.relu(),
    "relu6": lambda y, x: F.relu6(y),
    "sigmoid": lambda y, x: torch.sigmoid(y),
    "softmax": lambda y, x: y.softmax(1),
    "square": lambda y, x: y.square(),
    "maximum over windows": lambda y, x: F.max_pool2d(F.relu(y), 3, 1, 1),
    "average": lambda y, x: F.avg_pool2d(F.relu(y), 3, 1, 1),
    "mean": lambda y, x: y.abs().mean((2, 3), keepdim=True),
    "dropout": lambda y, x: F.dropout(F.relu(y), 0.5),
    "sum": lambda y, x: F.relu(y) + torch.exp(y),
    "sum with a number": lambda y, x: torch.add(F.relu(y), 0.5),
    "product": lambda y, x: 2 * F.relu(y) * y.sigmoid(),
    "concatenation": lambda y, x: torch.cat([F.relu(y), y.sigmoid()], 1),
    "flattened": lambda y, x: torch.flatten(F.relu(y), 1).reshape(-1, 6),
    "transposed": lambda y, x: F.relu(y).transpose(1, 2),
    "strided, padded": lambda y, x: F.pad(F.relu(y)[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)),
    "padded with ones": lambda y, x: F.pad(F.relu(y), (1, 1), "constant", 1.0),
}
SIGNED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "convolution": lambda y, x: y,
    "input": lambda y, x: x,
    "tanh": lambda y, x: y.tanh(),
    "leaky": lambda y, x: F.leaky_relu(y.sigmoid() - 0.5, 0.1),
    "difference": lambda y, x: F.relu(y) - y.sigmoid(),
    "negative factor": lambda y, x: -2 * F.relu(y),
    "negative term": lambda y, x: F.relu(y) + (-0.4),
    "negative alpha": lambda y, x: torch.add(F.relu(y), y.sigmoid(), alpha=-1),
    "sum with a signed one": lambda y, x: F.relu(y) + y,
    "product with a signed one": lambda y, x: F.relu(y) * y.tanh(),
    "concatenation with a signed one": lambda y, x: torch.cat([F.relu(y), y], 1),
    "padded with minus one": lambda y, x: F.pad(F.relu(y), (1, 1), "constant", -1.0),
    "negative divisor": lambda y, x: F.avg_pool2d(y.sigmoid(), 2, divisor_override=-3),
    "negative divisor by position": lambda y, x: F.avg_pool2d(y.sigmoid(), 2, 2, 0, False, True, -3),
    "unknown": lambda y, x: torch.cumsum(F.relu(y) - 1, 1),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_non_negative_functions(name: str) -> None:
    made = POSITIVE[name]
    x = torch.randn(2, 2, 4, 4)
    once = verify_values(Function(made), x)
    for rectify in (F.relu, torch.relu, lambda y: y.relu()):
        net = Function(lambda y, x, rectify=rectify: rectify(made(y, x)))
        assert rectifiers(verify_values(net, x)) == rectifiers(once)


@pytest.mark.parametrize("name", SIGNED)
def test_functions_of_either_sign(name: str) -> None:
    made = SIGNED[name]
    x = torch.randn(2, 2, 4, 4)
    net = Function(lambda y, x: F.relu(made(y, x)))
    assert rectifiers(verify_values(net, x)) == rectifiers(verify_values(Function(made), x)) + 1


MODULES: dict[str, tuple[nn.Module, bool]] = {
    "Sigmoid": (nn.Sigmoid(), True), "ReLU6": (nn.ReLU6(), True), "Hardsigmoid": (nn.Hardsigmoid(), True),
    "Softmax": (nn.Softmax(1), True), "MaxPool2d": (nn.MaxPool2d(2), True), "AvgPool2d": (nn.AvgPool2d(2), True),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d(3), True), "Dropout": (nn.Dropout(0.5), True),
    "Flatten": (nn.Flatten(), True), "divided": (nn.AvgPool2d(2, divisor_override=-3), False),
    "Tanh": (nn.Tanh(), False), "BatchNorm2d": (nn.BatchNorm2d(3), False), "LeakyReLU": (nn.LeakyReLU(0.1), False),
    "AlphaDropout": (nn.AlphaDropout(0.5), False),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    """A rectifier before the module, and one behind: the second goes where the module keeps or makes the sign."""
    module, gone = MODULES[name]
    before = nn.ReLU() if name not in ("Sigmoid", "ReLU6", "Hardsigmoid", "Softmax") else nn.Identity()
    net = nn.Sequential(nn.Conv2d(2, 3, 3), before, module, nn.ReLU())
    plain = verify_values(net, torch.randn(2, 2, 5, 5))
    assert rectifiers(plain) == isinstance(before, nn.ReLU) + (not gone)


def blocks(count: int, inplace: bool) -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)]
    for i in range(count):
        body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace), nn.Conv2d(4, 4, 1))
        parts += [Residual(body, nn.AvgPool2d(2) if i == 1 else None), nn.ReLU(inplace)]
        if i == 1:
            body[0].stride = (2, 2)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("on", [(), (0,), (2,), (0, 1, 2, 3)])
def test_blocks_that_end_in_a_rectifier(on: tuple[int, ...]) -> None:
    """One is left behind the stem, and two a branch that is on; in place or not."""
    plain, writing = blocks(4, False), blocks(4, True)
    for net in (plain, writing):
        with torch.no_grad():
            for i, gate in enumerate(gates_of(net).values()):
                gate.theta.fill_(float(i in on))
    randomise_statistics(plain, 0)
    writing.load_state_dict(plain.state_dict())
    x = torch.randn(3, 2, 6, 6)
    left = verify_values(plain, x)
    assert rectifiers(left) == rectifiers(compact(writing)) == 1 + 2 * len(on)
    calls = [node.op for node in left.graph.nodes].count("call_module")
    assert calls == 3 + 5 * len(on) + 1 + 3  # stem, branches with what follows, one average as by-pass, head
    with torch.no_grad():
        assert torch.equal(compact(writing)(x), writing(x))


def test_a_masked_stream_stays_non_negative() -> None:
    """Units that are off but stay, behind a rectifier: a product with a mask of 0 and 1 is left of their gate."""
    branch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Gate(3))
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), Residual(branch), nn.ReLU(), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        net[2].body[2].theta[1] = 0.0
    plain = verify_values(net, torch.randn(2, 2, 4, 4))
    assert any(node.op == "get_attr" for node in plain.graph.nodes)
    assert rectifiers(plain) == 2


def test_identities_leave() -> None:
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 4), Residual(nn.Linear(4, 4)), nn.Sequential(nn.Identity()))
    with torch.no_grad():
        net[2].gate.theta.zero_()
    plain = verify_values(net, torch.randn(2, 3))
    assert [str(node.target) for node in plain.graph.nodes if node.op == "call_module"] == ["1"]
    assert [name for name, _ in plain.named_children()] == ["1"]


def test_nothing_but_an_identity() -> None:
    plain, x = compact(nn.Sequential(nn.Identity())), torch.randn(2, 3)
    assert plain(x) is x and [node.op for node in plain.graph.nodes] == ["placeholder", "output"]


def test_a_parameter_has_either_sign() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([-1.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.sigmoid() * self.scale)

    plain, x = compact(Scaled()), torch.randn(3, 2)
    assert rectifiers(plain) == 1 and torch.equal(plain(x), Scaled()(x))


# memory -------------------------------------------------------------------------------------------------------------


def overwritten_copy(y: Tensor, x: Tensor) -> Tensor:
    y = y.sigmoid()
    return F.relu(y).sub_(0.5) + y  # equal to y before, but a copy


def overwritten_source(y: Tensor, x: Tensor) -> Tensor:
    y = y.sigmoid()
    z = F.relu(y)
    return y.sub_(0.5) * z


def overwritten_by_what_stays_positive(y: Tensor, x: Tensor) -> Tensor:
    y = (4 * y).exp()
    z = F.relu(y)
    return F.relu6(y, inplace=True) * z


def overwritten_view(y: Tensor, x: Tensor) -> Tensor:
    y = y.sigmoid()
    return F.relu(y).flatten(1).sub_(0.5) + y.flatten(1)


def negative_by_now(y: Tensor, x: Tensor) -> Tensor:
    y = y.sigmoid()
    z = y.flatten(2).sub_(0.5)
    return z * F.relu(y).flatten(2)


def negative_in_place(y: Tensor, x: Tensor) -> Tensor:
    return F.relu(y.sigmoid().sub_(0.5)) - y


def dropped_in_place(y: Tensor, x: Tensor) -> Tensor:
    y = y.sigmoid()
    z = F.relu(y)
    return F.dropout(z, 0.5, True, True) * y


@pytest.mark.parametrize(
    "function",
    [
        overwritten_copy,
        overwritten_source,
        overwritten_by_what_stays_positive,
        overwritten_view,
        negative_by_now,
        negative_in_place,
        dropped_in_place,
    ],
)
def test_rectifiers_that_keep_values_apart(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    net, x = Function(function).double().eval(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    plain = compact(net)
    outputs = []
    for network in (plain, net):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(network(x))
    assert torch.equal(*outputs)
    assert rectifiers(plain) == 1


def test_in_place_on_what_is_non_negative_already() -> None:
    """The second and fourth write over what they read, with what it is: they go, and so does the copy before them."""

    def function(y: Tensor, x: Tensor) -> Tensor:
        y = F.relu(y, inplace=True)
        z = F.relu(F.relu(y, inplace=True))
        return F.relu(z, True) + y

    net, x = Function(function), torch.randn(2, 2, 4, 4)
    plain = compact(net)
    assert torch.equal(plain(x), net(x)) and rectifiers(plain) == 1
