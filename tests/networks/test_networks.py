"""Gated networks by name: their sizes against the published ones, their gates, and their compaction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.graph import check_gates, gates_of
from bayesprune.networks import NETWORKS, build, lenet5, lenet300, resmlp
from bayesprune.pruning import compact, cost

SHAPES = {
    "lenet300": (1, 8, 8), "lenet5": (1, 16, 16), "resmlp": (1, 8, 8), "resmlp3": (5,), "resnet": (1, 8, 8),
    "resnet8": (3, 8, 8), "resnet18": (3, 32, 32), "resnet34": (3, 32, 32), "resnet50": (3, 32, 32),
    "vgg16": (1, 16, 16), "lenet5-bypass": (1, 16, 16),
}  # fmt: skip


def gate_sizes(net: nn.Module) -> dict[str, int]:
    return {name: gate.size for name, gate in gates_of(net).items()}


def number_of_weights(net: nn.Module) -> int:
    return sum(p.numel() for name, p in net.named_parameters() if not name.endswith("theta"))


@pytest.mark.parametrize("name", SHAPES)
def test_every_network_is_a_gated_network(name: str) -> None:
    shape = SHAPES[name]
    net = build(name, shape, 7)
    check_gates(net)
    assert net(torch.randn(3, *shape)).shape == (3, 7)
    assert all(bool((gate.theta == 0.9).all()) for gate in gates_of(net).values())
    assert set(NETWORKS) <= set(SHAPES)


@pytest.mark.parametrize(("depth", "begin"), [(4, None), (9, None), (10, 0.9), (12, 0.75), (24, 0.375), (48, 0.1875)])
def test_deep_networks_begin_with_nine_branches_but_with_all_of_them_likely(depth: int, begin: float | None) -> None:
    net = resmlp(depth=depth)
    assert [gate.begin for gate in gates_of(net).values()] == [begin] * depth
    assert all(gate.theta.item() == pytest.approx(0.9) for gate in gates_of(net).values())
    assert cost(compact(net), torch.zeros(1, 1, 28, 28)).params == number_of_weights(net)


@pytest.mark.parametrize("name", SHAPES)
def test_compaction_keeps_its_outputs(name: str) -> None:
    shape = SHAPES[name]
    net = build(name, shape, 3).double().eval()
    for gate in gates_of(net).values():
        with torch.no_grad():
            gate.theta.bernoulli_(0.6)
            gate.theta[0] = 1.0
    x = torch.randn(4, *shape).double()
    small = compact(net)
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-10)
    assert cost(small, x).params <= number_of_weights(net)
    assert not gates_of(small)


def test_lenet300_is_the_published_one() -> None:
    net = lenet300()
    assert number_of_weights(net) == 266_610
    assert gate_sizes(net) == {"1": 784, "2": 300, "4": 100}


def test_lenet5_is_the_published_one() -> None:
    net = lenet5()
    assert number_of_weights(net) == 431_080
    assert gate_sizes(net) == {"0": 20, "3": 50, "7": 800, "8": 500}
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_resmlp_has_one_gate_a_branch() -> None:
    net = resmlp((3, 4), 5, depth=6, width=8)
    assert gate_sizes(net) == {str(i): 1 for i in range(3, 9)}
    assert number_of_weights(net) == (12 * 8 + 8) + 6 * (8 * 8 + 8) + (8 * 5 + 5)
    assert len(gate_sizes(resmlp((4,), 2))) == 24 and len(gate_sizes(build("resmlp12", (4,), 2))) == 12


@pytest.mark.parametrize("widths", [(30, 10), (600, 200)])
def test_widths_of_lenet300(widths: tuple[int, int]) -> None:
    assert gate_sizes(lenet300((2, 3, 3), 4, widths=widths)) == {"1": 18, "2": widths[0], "4": widths[1]}


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (2, 17, 22)])
def test_lenet5_takes_images_of_other_sizes(shape: tuple[int, ...]) -> None:
    net = lenet5(shape, 4, widths=(2, 3, 5))
    assert net(torch.randn(2, *shape)).shape == (2, 4)
    assert gate_sizes(net)["7"] == 3 * math.prod(((side - 4) // 2 - 4) // 2 for side in shape[1:])


@pytest.mark.parametrize("shape", [(784,), (1, 8, 8), (1, 28, 15), (28, 28)])
def test_lenet5_refuses_what_it_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"lenet5: expected images .* of at least 16x16"):
        lenet5(shape)


@pytest.mark.parametrize(("name", "branches"), [("resnet", 9), ("resnet20", 9), ("resnet56", 27), ("resmlp5", 5)])
def test_names_with_a_depth(name: str, branches: int) -> None:
    assert len(gates_of(build(name, (1, 16, 16), 2))) == branches


@pytest.mark.parametrize("name", ["lenet", "resmlp0", "resmlp-3", "resmlp3x", "LeNet5", "vgg19", "lenet12", ""])
def test_unknown_names_are_refused(name: str) -> None:
    message = r"unknown network .*; known are .*lenet300, lenet5.*vgg16, resmlpDEPTH .* and resnetDEPTH"
    with pytest.raises(ConfigError, match=message):
        build(name, (1, 28, 28), 10)


def test_lenet5_with_every_by_pass_is_one_linear_map() -> None:
    """With all gates off, f(x) − f(0) is linear in x; with them on it is not."""
    net = build("lenet5-bypass", (1, 28, 28), 10).double().eval()
    x, z = torch.randn(2, 1, 28, 28).double(), torch.randn(2, 1, 28, 28).double()
    for theta, linear in ((0.0, True), (1.0, False)):
        for gate in gates_of(net).values():
            nn.init.constant_(gate.theta, theta)
        with torch.no_grad():
            zero = net(torch.zeros_like(x))
            gap = net(x - 2 * z) - zero - (net(x) - zero) + 2 * (net(z) - zero)
        assert bool(gap.abs().max() < 1e-12) == linear
