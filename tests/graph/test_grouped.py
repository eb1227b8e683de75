"""Convolutions in groups: whole groups go, and from those that are left equal numbers; all else stays as zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import GateError
from bayesprune.graph import check_gates
from bayesprune.layers import Gate
from bayesprune.pruning import compact
from tests.graph.test_axes import some_off, verify


def grouped(make: Callable[..., nn.Module], inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """A convolution in groups with gates before and behind it, between two ordinary ones."""
    return nn.Sequential(
        layers.Conv2d(2, inputs, 1, gate="unit"), nn.ReLU(), make(inputs, outputs, 3, padding=1, groups=groups),
        nn.BatchNorm2d(outputs), nn.ReLU(), Gate(outputs), nn.Conv2d(outputs, 3, 1),
    )  # fmt: skip


def off(net: nn.Sequential, before: set[int], behind: set[int]) -> tuple[int, int, int]:
    """Switch these entries off; gives the groups, inputs and outputs that are left of the convolution."""
    with torch.no_grad():
        for gate, entries in ((net[0].gate, before), (net[5], behind)):
            gate.theta.fill_(1.0)
            gate.theta[list(entries)] = 0.0
    x = torch.randn(2, 2, 5, 5)
    conv = verify(net, x, x).get_submodule("2")
    return conv.groups, conv.in_channels, conv.out_channels


SIZES = [(8, 8, 4), (8, 12, 2), (12, 6, 3), (12, 4, 2)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_any_gates_off(make: Callable[..., nn.Module], sizes: tuple[int, int, int]) -> None:
    x = torch.randn(2, 2, 5, 5)
    for seed in range(2):
        torch.manual_seed(seed)
        net = grouped(make, *sizes)
        some_off(net, seed)
        verify(net, x, x)
        verify(net, x)


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_what_goes(make: Callable[..., nn.Module]) -> None:
    """Of four groups of two inputs and three outputs each."""
    net = grouped(make, 8, 12, 4)
    assert off(net, set(), set()) == (4, 8, 12)
    assert off(net, {2, 3}, {3, 4, 5}) == (3, 6, 9)  # a group as a whole
    assert off(net, {2, 3}, set()) == (3, 6, 9)  # what its biases add goes into the layer behind
    assert off(net, {0}, set()) == (4, 8, 12)  # one place of one group
    assert off(net, {0, 2, 4, 6}, set()) == (4, 4, 12)  # one place of each
    assert off(net, {0, 2, 4, 6, 7}, {0, 5, 7, 9, 10, 11}) == ((3, 3, 6) if make is nn.Conv2d else (3, 3, 9))
    assert off(net, set(range(1, 8)), set(range(2, 12))) == ((1, 1, 2))
    assert off(net, set(range(2, 8)), set(range(3, 12))) == (1, 2, 3)


def test_groups_without_a_bias_go_with_their_inputs() -> None:
    net = nn.Sequential(Gate(4), nn.Conv1d(4, 8, 3, groups=2, bias=False), nn.ReLU(), nn.Conv1d(8, 2, 1))
    with torch.no_grad():
        net[0].theta[2:] = 0.0
    x = torch.randn(2, 4, 6)
    conv = verify(net, x).get_submodule("1")
    assert (conv.groups, conv.in_channels, conv.out_channels) == (1, 2, 4)


def test_groups_that_read_inputs_lose_equally_many_filters() -> None:
    net = nn.Sequential(layers.Conv2d(4, 8, 1, groups=2, gate="unit"), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        net[0].gate.theta[:3] = 0.0
    x = torch.randn(2, 4, 5, 5)
    assert verify(net, x).get_submodule("0").out_channels == 8
    with torch.no_grad():
        net[0].gate.theta[5:7] = 0.0
    assert verify(net, x).get_submodule("0").out_channels == 4


def test_a_constant_other_than_zero_is_refused() -> None:
    net = nn.Sequential(Gate(4), nn.Sigmoid(), nn.Conv1d(4, 8, 1, groups=2), nn.Conv1d(8, 2, 1))
    with pytest.raises(GateError, match="leaves a constant that is not carried through"):
        check_gates(net)


def test_many_groups_of_a_residual_network_go_with_one_gate() -> None:
    """As of ResNeXt: one gate a group, on the inputs and on the outputs."""
    each = Gate(8)
    body = nn.Sequential(
        nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Unflatten(1, (-1, 2)), each, nn.Flatten(1, 2),
        nn.Conv2d(16, 16, 3, padding=1, groups=8), nn.ReLU(), nn.Unflatten(1, (-1, 2)), each, nn.Flatten(1, 2),
        nn.Conv2d(16, 4, 1),
    )  # fmt: skip
    net, x = nn.Sequential(layers.Residual(body), nn.Flatten(), nn.Linear(100, 2)), torch.randn(2, 4, 5, 5)
    some_off(net, 0)
    with torch.no_grad():
        net[0].gate.theta.fill_(1.0)
    left, conv = int(each.mode().sum()), verify(net, x, x).get_submodule("0.body.5")
    assert (conv.groups, conv.in_channels, conv.out_channels) == (left, 2 * left, 2 * left)
    assert compact(net, example_input=x).get_submodule("0.body.0").out_channels == 2 * left
