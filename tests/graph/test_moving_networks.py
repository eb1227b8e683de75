"""Networks that move entries as they are mostly written: excitation, attention, shuffled channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.graph import gates_of
from bayesprune.layers import Gate
from bayesprune.pruning import cost
from tests.graph.moved import SIZE, C, picked, shuffled
from tests.graph.test_axes import some_off, verify


class Excited(nn.Module):
    """Squeeze and excitation as it is mostly written: sizes are read of one tensor and given to another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Conv2d(2, C, 3, padding=1, gate="unit")
        self.squeeze, self.excite, self.out = nn.Linear(C, 4), nn.Linear(4, C), nn.Conv2d(C, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        b, c, _, _ = h.size()
        y = F.adaptive_avg_pool2d(h, 1).view(b, c)
        y = torch.sigmoid(self.excite(F.relu(self.squeeze(y)))).view(b, c, 1, 1)
        return self.out(h * y.expand_as(h))


def test_sizes_of_another_tensor() -> None:
    net, x = Excited(), torch.randn(3, 2, SIZE, SIZE)
    for seed in range(2):
        some_off(net, seed)
        plain, left = verify(net, x, x), int(net.first.gate.mode().sum())
        assert plain.get_submodule("squeeze").in_features == plain.get_submodule("excite").out_features == left


class Attention(nn.Module):
    """Gated features, and heads whose gates follow; all but the sizes of the heads are read of the features."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.first, self.qkv, self.out = layers.Linear(6, 6, gate="unit"), nn.Linear(6, 36), nn.Linear(12, 6)
        self.gate, self.sizes = Gate(4), sizes

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        b, t, _ = h.shape
        parts = self.qkv(h).reshape(b, t, 3, *self.sizes).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(*picked(parts, 0, 1, 2))
        return self.out(self.gate(mixed).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("sizes", [(4, 3), (4, -1), (-1, 3)])
def test_sizes_that_removal_leaves_alone_pin_nothing(sizes: tuple[int, int]) -> None:
    net, x = Attention(*sizes), torch.randn(2, 5, 6)
    for seed in range(2):
        some_off(net, seed)
        plain = verify(net, x, x)
        assert plain.get_submodule("first").out_features == int(net.first.gate.mode().sum())
        assert plain.get_submodule("out").in_features == 3 * int(net.gate.mode().sum())


class Unit(nn.Module):
    """A unit of ShuffleNet: half of the channels go through a gated branch, and all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            layers.Conv2d(width, 6, 1, gate="unit"), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6),
            nn.Conv2d(6, width, 1), nn.BatchNorm2d(width), nn.ReLU(), Gate(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return shuffled(torch.cat((a, self.branch(b)), dim=1))


def test_a_shuffle_network() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), Gate(8), Unit(4), Unit(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    x = torch.randn(3, 2, SIZE, SIZE)
    for seed in range(2):
        torch.manual_seed(seed)
        some_off(net, seed)
        verify(net, x, x)
    for gate in gates_of(net).values():
        with torch.no_grad():
            gate.theta.fill_(1.0)[: gate.size // 2] = 0.0
    dense = cost(net).params
    assert cost(verify(net, x, x)).params < dense
