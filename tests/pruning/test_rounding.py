"""Widths that are multiples of a number: exact, as near as can be, and zeros where structures that are off stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import bayesprune as bp
from bayesprune import layers
from bayesprune.graph import gates_of
from bayesprune.layers import Gate
from bayesprune.pruning import compact
from tests.pruning.nets import NETS
from tests.pruning.random_nets import random_network
from tests.pruning.verify import draw_thetas, randomise_statistics

WIDTHS = "in_features", "out_features", "in_channels", "out_channels"


def widths(net: nn.Module) -> dict[tuple[str, str], int]:
    found = [(name, width, getattr(module, width, None)) for name, module in net.named_modules() for width in WIDTHS]
    return {(name, width): size for name, width, size in found if isinstance(size, int)}


def check(net: nn.Module, x: Tensor, multiple: int) -> nn.Module:
    """Outputs are those of the gated network; widths are multiples, or what there was; nothing costs less for it.

    A layer that others are fused with has the widths of these.
    """
    net, x = net.double().eval(), x.double()
    whole = copy.deepcopy(net)
    for gate in gates_of(whole).values():
        gate.theta.data.fill_(1.0)
    rounded, bare = compact(net, round_to=multiple, example_input=x), compact(net, example_input=x)
    with torch.no_grad():
        torch.testing.assert_close(rounded(x), net(x), rtol=1e-9, atol=1e-12)
    before = set(widths(whole).values())
    assert all(size % multiple == 0 or size in before for size in widths(rounded).values()), widths(rounded)
    assert bp.cost(rounded, x[:1]).params >= bp.cost(bare, x[:1]).params
    return rounded


@pytest.mark.parametrize("name", NETS)
def test_outputs_stay_and_widths_are_multiples(name: str) -> None:
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build()
    draw_thetas(net, 0)
    randomise_statistics(net, 0)
    check(net, torch.randn(3, *shape), 4)


@pytest.mark.parametrize("seed", range(5))
def test_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    net, shape = random_network(seed)
    draw_thetas(net, seed, keep=0.55)
    randomise_statistics(net, seed)
    check(net, torch.randn(2, *shape), 3)


class Halves(nn.Module):
    """What one layer writes is cut in two, and each half is read by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.norm = nn.Conv2d(3, 48, 3, 2), nn.BatchNorm2d(48)
        self.left, self.right, self.head = nn.Conv2d(24, 12, 3), nn.Conv2d(24, 20, 3), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.norm(self.write(x)).relu().chunk(2, 1)
        return self.head(torch.cat([self.left(left), self.right(right)], 1).mean((2, 3)))


def converted(name: str) -> tuple[nn.Module, Tensor]:
    """A small network of torchvision's with gates, about half of them off."""
    torch.manual_seed(0)
    x, make = torch.randn(2, 3, 32, 32), {
        "mobilenet": lambda: models.MobileNetV2(4, 0.35, [[1, 16, 1, 1], [4, 24, 2, 2], [4, 32, 2, 2]]),
        "vit": lambda: models.VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=4),
        "densenet": lambda: models.DenseNet(8, (2, 2), 16, num_classes=4),
        "halves": Halves,
    }  # fmt: skip
    model = make[name]().eval()
    nn.init.normal_(list(model.modules())[-1].weight)
    net = bp.convert(model, example_input=x)
    randomise_statistics(net, 0)
    for gate in gates_of(net).values():
        gate.theta.data = torch.rand(gate.size) if gate.size > 1 else torch.ones(1)
    return net, x


@pytest.mark.parametrize("name", ["mobilenet", "vit", "densenet", "halves"])
def test_converted_networks_with_zeros_that_layers_write(name: str) -> None:
    net, x = converted(name)
    rounded = check(net, x, 8)
    # A gate on one of two halves multiplies: the layer before writes both.
    assert name == "halves" or not any("mask" in str(node.target) for node in rounded.graph.nodes)  # type: ignore[operator, union-attr]


def test_the_structures_of_the_largest_theta_come_back_and_are_zero() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Gate(8), nn.Linear(8, 2)).eval()
    net[2].theta.data = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.4, 0.6, 0.9, 0.0])
    rounded = compact(net, round_to=5)
    assert torch.equal(rounded.get_parameter("3.weight"), net[3].weight[:, [1, 2, 4, 5, 6]])
    on = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    assert torch.equal(rounded.get_parameter("0.weight"), net[0].weight[[1, 2, 4, 5, 6]] * on[:, None])
    assert torch.equal(rounded.get_parameter("0.bias"), net[0].bias[[1, 2, 4, 5, 6]] * on)
    x = torch.randn(4, 5)
    torch.testing.assert_close(rounded(x), net(x))
    whole = compact(net, round_to=16)  # there are eight
    assert whole.get_submodule("0").out_features == 8


def test_dropout_before_a_gate_keeps_zeros() -> None:
    dropouts = nn.Dropout2d(0.0), nn.Dropout(0.5), nn.ReLU6()
    net = nn.Sequential(nn.Conv2d(2, 6, 1), *dropouts, Gate(6), nn.Conv2d(6, 3, 1)).eval()
    net[4].theta.data = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.9, 0.7])
    rounded = check(net, torch.randn(2, 2, 3, 3), 4)
    assert not any("mask" in str(node.target) for node in rounded.graph.nodes)  # type: ignore[operator, union-attr]


def test_a_zero_that_something_undoes_is_multiplied() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), Gate(4), nn.Linear(4, 2)).eval()
    net[2].theta.data = torch.tensor([0.1, 0.9, 0.3, 0.2])
    rounded, x = compact(net, round_to=2), torch.randn(4, 5)
    torch.testing.assert_close(rounded(x), net(x))
    assert torch.equal(rounded.get_parameter("0.weight"), net[0].weight[[1, 2]])


def test_a_smaller_posterior_keeps_what_makes_a_multiple() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(layers.Linear(5, 8, gate="unit"), nn.ReLU(), nn.Linear(8, 2))
    bnn = bp.BayesianNet(net, num_data=10).eval()
    with torch.no_grad():
        bnn.theta.copy_(torch.tensor([0.1, 0.9, 0.3, 0.2, 0.4, 0.6, 0.9, 0.0]))
    small, x = compact(bnn, posterior=True, round_to=4), torch.randn(3, 5)
    torch.testing.assert_close(small.theta, torch.tensor([0.9, 0.0, 0.6, 0.9]))
    torch.testing.assert_close(small.net(x), bnn.net(x))
