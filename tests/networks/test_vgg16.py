"""VGG16 with by-passes: sections and sizes as published, by-passes that are linear, maps that are never pooled away."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.layers import Residual, gates_of
from bayesprune.networks import vgg16
from bayesprune.pruning import compact, cost
from tests.pruning.verify import randomise_statistics

CONVOLUTIONS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
PROJECTIONS = 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512


def set_gates(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for gate in gates_of(net).values():
            gate.theta.fill_(value)


def test_size_is_the_published_one_and_the_by_passes() -> None:
    plain = sum(9 * a * b + 2 * b for a, b in pairwise(CONVOLUTIONS))
    assert cost(vgg16()).params == plain + PROJECTIONS + 2 * (512 * 512 + 2 * 512) + 512 * 10 + 10


def test_multiply_adds_by_hand() -> None:
    """32x32 images: with all gates on, and with all off, when by-passes and the output layer are left.

    Those are averages and linear maps, and come down to one map of three mean colours.
    """
    net, x = vgg16(), torch.randn(1, 3, 32, 32)
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    branches = (
        sum(9 * a * b * side**2 for (a, b), side in zip(pairwise(CONVOLUTIONS), sides, strict=True)) + 2 * 512 * 512
    )
    by_passes = 3 * 64 * 32**2 + 64 * 128 * 16**2 + 128 * 256 * 8**2 + 256 * 512 * 4**2
    set_gates(net, 1.0)
    assert cost(net, x).macs == branches + by_passes + 512 * 10
    set_gates(net, 0.0)
    assert cost(net, x).macs == by_passes + 512 * 10
    assert cost(compact(net), x).macs == 3 * 10


def test_initial_weights_are_drawn_as_those_of_the_residual_networks() -> None:
    """Variance 2 / (9 · 64): the standard error of 18,432 normal numbers' variance is 1.04 %, and 4 of them 4.2 %."""
    torch.manual_seed(0)
    weight = vgg16(width=16).get_parameter("conv3_1.body.0.weight").detach()
    assert weight.shape == (64, 32, 3, 3)
    assert float(weight.var()) == pytest.approx(2 / (9 * 64), rel=0.042)


def test_names_of_the_gates() -> None:
    stages = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
    names = [f"conv{stage}_{layer}" for stage, count in stages.items() for layer in range(1, count + 1)]
    assert list(gates_of(vgg16(width=2))) == [*names, "hidden1", "hidden2"]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 16, 70)])
def test_without_its_branches_it_is_linear(shape: tuple[int, ...]) -> None:
    """f(t a + (1 - t) b) = t f(a) + (1 - t) f(b), which no activation or max-pooling would leave true."""
    net = vgg16(shape, 5, width=3).double().eval()
    randomise_statistics(net, 0)
    a, b = torch.randn(2, 4, *shape).double()
    set_gates(net, 1.0)
    assert not torch.allclose(net(0.3 * a + 0.7 * b), 0.3 * net(a) + 0.7 * net(b), rtol=1e-3)
    set_gates(net, 0.0)
    torch.testing.assert_close(net(0.3 * a + 0.7 * b), 0.3 * net(a) + 0.7 * net(b), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(net(a), net(b))


@pytest.mark.parametrize(("name", "pools", "projects"), [("conv3_1", False, True), ("conv3_2", False, False),
                                                         ("conv3_3", True, False)])  # fmt: skip
def test_a_section_is_by_pass_and_branch(name: str, pools: bool, projects: bool) -> None:
    net = vgg16(width=2).double().eval()
    randomise_statistics(net, 1)
    section = net.get_submodule(name)
    x = torch.randn(2, section.body[0].in_channels, 8, 8).double()
    norm = section.body[1]
    branch = F.conv2d(x, section.body[0].weight, padding=1)
    branch = F.relu(F.batch_norm(branch, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    bypass = F.conv2d(x, section.shortcut.weight) if projects else x
    if pools:
        branch, bypass = F.max_pool2d(branch, 2), F.avg_pool2d(bypass, 2)
    torch.testing.assert_close(section(x), bypass + branch, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "pools", "side"),
    [((3, 32, 32), 5, 1), ((1, 28, 28), 4, 1), ((1, 16, 16), 4, 1), ((1, 31, 40), 4, 1), ((3, 64, 96), 5, 2)],
)
def test_maps_are_halved_until_they_are_one_by_one(shape: tuple[int, ...], pools: int, side: int) -> None:
    net = vgg16(shape, 4, width=2).eval()
    sections = [m for m in net.modules() if isinstance(m, Residual) and isinstance(m.shortcut, nn.AvgPool2d)]
    assert len(sections) == pools
    last = net[: list(net._modules).index("pool")](torch.randn(1, *shape))
    assert min(last.shape[2:]) == side
    assert net(torch.randn(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 15, 28), (3, 8, 8)])
def test_inputs_it_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"vgg16: expected images .* of at least 16x16, got .*resnet for images"):
        vgg16(shape)
