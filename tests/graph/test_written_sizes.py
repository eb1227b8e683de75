"""Sizes that are written out in the graph of a GraphModule, which become others when entries go."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from bayesprune.graph import check_gates
from bayesprune.graph.tracer import GateTracer
from bayesprune.layers import Residual
from bayesprune.pruning import cost, shrink
from tests.graph.moved import BLOCKS, EACH, HALVES, SIZE, C, Moved, conv, group_off, picked
from tests.graph.test_axes import some_off, verify


def as_graph(net: nn.Module) -> fx.GraphModule:
    """The same modules, called by a graph: what was code in forward is data."""
    return fx.GraphModule(net, GateTracer().trace(net))


Case = tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module], list[set[int]], int]
WRITTEN: dict[str, Case] = {
    "view(-1, 288)": (lambda h: h.view(-1, 288), lambda: nn.Linear(288, 2), EACH, 72),
    "view(b, 288)": (lambda h: h.view(h.shape[0], 288), lambda: nn.Linear(288, 2), EACH, 72),
    "reshape((-1, 288))": (lambda h: torch.reshape(h, (-1, 288)), lambda: nn.Linear(288, 2), EACH, 72),
    "view(-1, 8, 36)": (lambda h: h.view(-1, 8, 36).mean(2), lambda: nn.Linear(8, 2), EACH, 2),
    "view(b, 2, 4, 36)": (
        lambda h: h.view(h.shape[0], 2, 4, 36).sum(1).flatten(1), lambda: nn.Linear(144, 2), BLOCKS, 0,
    ),
    "unflatten": (lambda h: h.unflatten(1, (2, 4)).flatten(1), lambda: nn.Linear(288, 2), HALVES, 144),
    "shuffled": (lambda h: h.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6), conv, HALVES, 4),
    "shuffled, contiguous": (
        lambda h: h.view(-1, 2, 4, 6, 6).transpose(1, 2).contiguous().view(-1, 8, 6, 6), conv, HALVES, 4,
    ),
    "split": (lambda h: h.split(4, 1)[1] - h.split(4, 1)[0], lambda: conv(4), HALVES, 2),
    "split in unequal parts": (lambda h: torch.cat(picked(h.split([2, 4, 2], 1), 2, 0, 1), 1), conv, EACH, 2),
    "a part": (lambda h: h[:, 2:6], lambda: conv(4), EACH, 3 * 3),  # with the others that nothing reads
    "narrow": (lambda h: h.narrow(1, 3, 5), lambda: conv(5), EACH, 2 + 3 * 3),
    "expand": (lambda h: h.mean((2, 3), keepdim=True).expand(-1, 8, 6, 6), conv, EACH, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_written_sizes_follow(name: str) -> None:
    function, out, groups, behind = WRITTEN[name]
    torch.manual_seed(0)
    net, x = as_graph(Moved(function, out())), torch.randn(4, 2, SIZE, SIZE)
    some_off(net, list(WRITTEN).index(name))
    verify(net, x, x)
    group_off(net)
    dense = cost(verify(net, x, x)).params
    group_off(net, *groups[-1])
    assert dense - cost(verify(net, x, x)).params == 3 * len(groups[-1]) + behind


def test_down_to_one_channel_and_on() -> None:
    net, x = as_graph(Moved(lambda h: h.view(-1, 288), nn.Linear(288, 2))).double(), torch.randn(3, 2, 6, 6).double()
    group_off(net, *range(1, C))
    smaller, _ = shrink(net, {"first": net.first.gate.theta == 0}, example_input=x)
    check_gates(smaller, example_input=x)
    again, _ = shrink(smaller, {"first": torch.zeros(1, dtype=torch.bool)}, example_input=x)
    assert again.first.out_channels == 1 and again.out.in_features == 36
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x), rtol=0, atol=1e-10)


def test_the_network_that_is_cut_stays() -> None:
    net, x = as_graph(Moved(lambda h: h.view(-1, 288), nn.Linear(288, 2))), torch.randn(3, 2, 6, 6)
    before, code = net(x), net.code
    shrink(net, {"first": torch.arange(C) < 3}, example_input=x)
    assert net.code == code and torch.equal(net(x), before)


def test_graphs_within() -> None:
    """The graph of a branch is rewritten where it stands, and the copy of a network has graphs of its own."""
    body = as_graph(nn.Sequential(Moved(lambda h: h.view(-1, 288), nn.Linear(288, 72)), nn.Unflatten(1, (2, 6, 6))))
    net, x = as_graph(nn.Sequential(Residual(body), nn.Flatten(), nn.Linear(72, 2))), torch.randn(3, 2, 6, 6)
    net = copy.deepcopy(net)
    gate = net.get_submodule("0.body.0.first.gate")
    with torch.no_grad():
        gate.theta[:3] = 0.0
    assert verify(net, x, x).get_submodule("0.body.0.first").out_channels == 5


def test_cutting_twice_is_cutting_once() -> None:
    """As for a run that goes on from a checkpoint: it is cut to what is left in one step."""
    net, x = as_graph(Moved(lambda h: h.view(-1, 288), nn.Linear(288, 2))), torch.randn(3, 2, 6, 6)
    first, _ = shrink(net, {"first": torch.arange(C) < 2}, example_input=x)
    twice, _ = shrink(first, {"first": torch.arange(C - 2) > 3}, example_input=x)
    once, _ = shrink(net, {"first": (torch.arange(C) < 2) | (torch.arange(C) > 5)}, example_input=x)
    assert once.code == twice.code
    assert torch.equal(once(x), twice(x))
