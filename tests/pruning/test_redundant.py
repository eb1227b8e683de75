"""Rectifiers of what a rectifier gives, and identities: they go, and values and gradients stay."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.graph import gates_of
from bayesprune.layers import Residual
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
    relus = (F.relu, torch.relu, torch.relu_, "relu", "relu_")
    return sum(type(m) is nn.ReLU for m in modules) + sum(f in relus for f in functions)


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


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": F.relu,
    "in place": lambda y: F.relu(y, inplace=True),
    "torch": torch.relu,
    "torch, in place": torch.relu_,
    "method": lambda y: y.relu(),
    "method in place": lambda y: y.relu_(),
}
SIGNED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "convolution": lambda y, x: y,
    "input": lambda y, x: x,
    "tanh": lambda y, x: y.tanh(),
    "leaky": lambda y, x: F.leaky_relu(y, 0.1),
    "negative": lambda y, x: -F.relu(y),
    "sum with a signed one": lambda y, x: F.relu(y) + y,
    "sum with a negative number": lambda y, x: F.relu(y) + (-0.4),
    "normalised": lambda y, x: F.layer_norm(F.relu(y), (4, 4)),
    "padded with minus one": lambda y, x: F.pad(F.relu(y), (1, 1), "constant", -1.0),
}


@pytest.mark.parametrize("again", RELUS)
@pytest.mark.parametrize("first", RELUS)
def test_a_relu_of_a_relu(first: str, again: str) -> None:
    """The second goes, unless it is a copy of what was written in place. (torch refuses gradients of two in place.)"""
    net, x = Function(lambda y, x: RELUS[again](RELUS[first](y))), torch.randn(2, 2, 4, 4)
    if "in place" in again:
        plain = compact(net)
        assert torch.equal(plain(x), net(x))
    else:
        plain = verify_values(net, x)
    assert rectifiers(plain) == 1 + ("in place" in first and "in place" not in again)


def test_relus_in_a_row() -> None:
    plain = verify_values(Function(lambda y, x: F.relu(F.relu(F.relu(y.relu())))), torch.randn(2, 2, 4, 4))
    assert rectifiers(plain) == 1


@pytest.mark.parametrize("name", SIGNED)
def test_functions_of_either_sign(name: str) -> None:
    made = SIGNED[name]
    x = torch.randn(2, 2, 4, 4)
    net = Function(lambda y, x: F.relu(made(y, x)))
    assert rectifiers(verify_values(net, x)) == rectifiers(verify_values(Function(made), x)) + 1


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
    """One is left behind the stem, one behind an average, and two a branch that is on; in place or not."""
    plain, writing = blocks(4, False), blocks(4, True)
    for net in (plain, writing):
        with torch.no_grad():
            for i, gate in enumerate(gates_of(net).values()):
                gate.theta.fill_(float(i in on))
    randomise_statistics(plain, 0)
    writing.load_state_dict(plain.state_dict())
    x = torch.randn(3, 2, 6, 6)
    left = verify_values(plain, x)
    assert rectifiers(left) == rectifiers(compact(writing)) == 1 + 2 * len(on) + (1 not in on)
    calls = [node.op for node in left.graph.nodes].count("call_module")
    by_pass = 1 + (1 not in on)  # an average, and its rectifier if there is no branch
    assert calls == 3 + 5 * len(on) + by_pass + 3  # stem, branches with what follows, by-pass, head
    with torch.no_grad():
        assert torch.equal(compact(writing)(x), writing(x))


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


# memory -------------------------------------------------------------------------------------------------------------


def overwritten_copy(y: Tensor, x: Tensor) -> Tensor:
    y = y.relu()
    return F.relu(y).sub_(0.5) + y  # equal to y before, but a copy


def overwritten_source(y: Tensor, x: Tensor) -> Tensor:
    y = y.relu()
    z = F.relu(y)
    return y.sub_(0.5) * z


def overwritten_view(y: Tensor, x: Tensor) -> Tensor:
    y = y.relu()
    return F.relu(y).flatten(1).sub_(0.5) + y.flatten(1)


def negative_by_now(y: Tensor, x: Tensor) -> Tensor:
    y = y.relu()
    z = y.flatten(2).sub_(0.5)
    return z * F.relu(y).flatten(2)


def negative_in_place(y: Tensor, x: Tensor) -> Tensor:
    return F.relu(y.relu().sub_(0.5)) - y


def dropped_in_place(y: Tensor, x: Tensor) -> Tensor:
    y = y.relu()
    z = F.relu(y)
    return F.dropout(z, 0.5, True, True) * y


def a_copy_of_what_is_read(y: Tensor, x: Tensor) -> Tensor:
    return F.relu(y.relu_()).sub_(0.5) + y


@pytest.mark.parametrize(
    "function",
    [
        overwritten_copy,
        overwritten_source,
        overwritten_view,
        negative_by_now,
        negative_in_place,
        dropped_in_place,
        a_copy_of_what_is_read,
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
    assert rectifiers(plain) == 2


def test_in_place_on_what_is_rectified_already() -> None:
    """The third writes over what the second gives, with what it is: it goes. The last is the sum's own copy."""

    def function(y: Tensor, x: Tensor) -> Tensor:
        y = F.relu(y, inplace=True)
        z = F.relu(F.relu(y), inplace=True)
        return z.sub_(1) + y

    net, x = Function(function), torch.randn(2, 2, 4, 4)
    plain = compact(net)
    assert torch.equal(plain(x), net(x)) and rectifiers(plain) == 2
