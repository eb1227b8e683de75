"""Operations that write over their inputs: what is left computes what the gated network does, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError
from bayesprune.graph import check_gates
from bayesprune.pruning import compact, load, save
from tests.pruning.verify import draw_thetas

Body = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first, self.second = layers.Linear(6, 8, gate="unit"), layers.Linear(8, 8, gate="unit")
        self.plain, self.head, self.relu = nn.Linear(6, 6), nn.Linear(8, 3), nn.ReLU(inplace=True)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def write(function: Callable[[Any, Tensor], Any]) -> Body:
    """What a gated layer gives is written over by a statement, and read afterwards."""

    def body(net: Any, x: Tensor) -> Tensor:
        h = torch.sigmoid(net.first(x))
        function(net, h)
        return net.head(h)

    return body


def joined(function: Callable[[Any, Tensor], Tensor]) -> Body:
    """What a gated layer gives is written over by ``+=`` and the like, and read under both names."""
    return lambda net, x: (lambda h: net.head(function(net, h)) + net.head(h))(torch.sigmoid(net.first(x)))


def iadd(a: Tensor, b: Any) -> Tensor:
    a += b
    return a


def imul(a: Tensor, b: Any) -> Tensor:
    a *= b
    return a


def isub(a: Tensor, b: Any) -> Tensor:
    a -= b
    return a


def itruediv(a: Tensor, b: Any) -> Tensor:
    a /= b
    return a


REFUSED: dict[str, Body] = {
    "relu_": write(lambda net, h: torch.relu_(h)),
    "leaky_relu_": write(lambda net, h: F.leaky_relu_(h)),
    "mul_": write(lambda net, h: h.mul_(2.0)),
    "relu, inplace": write(lambda net, h: F.relu(h, inplace=True)),
    "ReLU, inplace": write(lambda net, h: net.relu(h)),
    "out": write(lambda net, h: torch.add(h, 1, out=h)),
    "of a view": write(lambda net, h: h.view(-1).mul_(3.0)),
    "of a view of a view": write(lambda net, h: F.dropout(h.flatten(1), 0.1, net.training).t().mul_(3.0)),
    "of a part": write(lambda net, h: h[:, :2].mul_(3.0)),
    "+=": joined(lambda net, h: iadd(h, 1.0)),
    "-=": joined(lambda net, h: isub(h, net.second(h))),
    "*=": joined(lambda net, h: imul(h, 2.0)),
    "/=": joined(lambda net, h: itruediv(h.flatten(1), 2.0)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_where_something_else_reads_it(case: str) -> None:
    with pytest.raises(GateError, match="in place while others read it; use an operation that is not in place"):
        check_gates(Net(REFUSED[case]))


EXACT: dict[str, Body] = {
    "+=": lambda net, x: net.head(iadd(iadd(torch.relu(net.first(x)), 0.5), 0.5)),
    "+= of two": lambda net, x: net.head(iadd(torch.relu(net.first(x)), torch.relu(net.first.weight.sum() * x[:, :1]))),
    "*=": lambda net, x: net.head(imul(torch.sigmoid(net.first(x)), 2.0)),
    "-= and /=": lambda net, x: net.head(itruediv(isub(torch.sigmoid(net.first(x)), 1.0), 3.0)),
    "the input": lambda net, x: (lambda y: (y.clamp_(0, 0.1), net.head(torch.tanh(net.first(y))))[1])(x.clone()),
    "a view of the input": lambda net, x: (
        lambda y: (y[:, 0].zero_(), y.view(-1).mul_(2.0), net.head(torch.tanh(net.first(y))))[2]
    )(x.clone()),
    "what no gate silences": lambda net, x: (
        lambda y: (torch.relu_(y), net.head(torch.tanh(net.first(y))))[1]
    )(net.plain(x) * x),
    "a size": lambda net, x: net.head(torch.tanh(net.first(x))) * iadd(x.shape[1], 2),
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
def test_exact(case: str, tmp_path) -> None:
    torch.manual_seed(0)
    net = Net(EXACT[case]).double().eval()
    net.second.gate = None
    if case == "+= of two":
        net.first = layers.Linear(6, 8)
        net.head = nn.Sequential(layers.Linear(8, 5, gate="unit"), nn.Tanh(), nn.Linear(5, 3)).double()
        net.first.double()
    x = torch.randn(5, 6, dtype=torch.float64)
    check_gates(net, example_input=x)
    for seed in range(3):
        draw_thetas(net, seed)
        plain = compact(net, example_input=x)
        with torch.no_grad():
            torch.testing.assert_close(plain(x.clone()), net(x.clone()), rtol=0, atol=1e-12)
        if case != "a view of the input":  # zero_ is no arithmetic that was asked for
            save(plain, tmp_path / "net.safetensors")
            assert torch.equal(load(tmp_path / "net.safetensors")(x.clone()), plain(x.clone()))


def test_a_removed_branch_with_operations_in_place_leaves_nothing() -> None:
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 2, 1))
    net = nn.Sequential(nn.Conv2d(1, 2, 3), layers.Residual(body), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    net[1].gate.theta.data.zero_()
    plain, x = compact(net), torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(plain(x), net(x))
    assert not any("body" in str(node.target) for node in plain.graph.nodes)
