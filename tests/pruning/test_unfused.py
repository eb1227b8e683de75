"""Linear maps that follow one another, but stay apart: they are used otherwise too, or one would cost more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.pruning import compact
from tests.pruning.fused import chain, conv, difference, layers_of, verify_fused


def frozen(net: nn.Module) -> nn.Module:
    net[0].requires_grad_(False)
    return net


def tied(net: nn.Module) -> nn.Module:
    net[1].weight = net[0].weight
    return net


def zero_bias(net: nn.Module) -> nn.Module:
    nn.init.zeros_(net[0].bias)
    return net


def shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return chain(layer, layer, nn.Linear(4, 4))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.later(x) * x.sigmoid()


class Returned(TwoReaders):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.cat([self.later(x), x])


class Pooled(nn.Module):
    """What the average reads is read without it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = conv(4, 3, 1), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.pool(x).sum((2, 3)) + x.sin().sum((2, 3))


class FlattenedTwice(TwoReaders):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(1)
        return self.later(x) - x.cos()


class ByKeyword(TwoReaders):
    """A spelling that is not looked at."""

    def forward(self, x: Tensor) -> Tensor:
        return self.later(torch.flatten(input=self.first(x), start_dim=1))


APART: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "wide, narrow, wide": (lambda: chain(nn.Linear(10, 3), nn.Linear(3, 10)), (10,)),
    "more parameters in the bias alone": (lambda: chain(nn.Linear(2, 1), nn.Linear(1, 2, bias=False)), (2,)),
    "narrow convolutions": (lambda: chain(conv(3, 2, 3), conv(2, 9, 1)), (3, 6, 6)),
    "bias before padding": (lambda: chain(conv(4, 5, 1), conv(5, 3, 3, padding=1)), (4, 6, 5)),
    "bias before the padding of a 1x1": (lambda: chain(conv(4, 5, 1), conv(5, 3, 1, padding=1)), (4, 6, 5)),
    "padded 1x1": (lambda: chain(conv(4, 5, 1, padding=1), conv(5, 3, 3)), (4, 6, 5)),
    "strided 1x1, wide": (lambda: chain(conv(4, 5, 1, 2), conv(5, 3, 3)), (4, 9, 9)),
    "same, strided 1x1": (lambda: chain(conv(4, 5, 3, padding="same"), conv(5, 3, 1, 2)), (4, 6, 5)),
    "3x3, 3x3": (lambda: chain(conv(2, 4, 3), conv(4, 2, 3)), (2, 6, 6)),
    "positions that padding adds": (
        lambda: chain(conv(7, 6, 1, bias=False), conv(6, 1, 3, padding=2, bias=False)), (7, 1, 1)
    ),
    "groups": (lambda: chain(conv(4, 4, 1), conv(4, 4, 3, groups=2)), (4, 5, 5)),
    "groups before": (lambda: chain(conv(4, 4, 3, groups=4), conv(4, 4, 1)), (4, 5, 5)),
    "wide, flattened": (lambda: chain(conv(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)), (2, 3, 3)),
    "strided, flattened": (lambda: chain(conv(2, 3, 1, 2), nn.Flatten(), nn.Linear(12, 2)), (2, 3, 3)),
    "flattened from the second": (lambda: chain(nn.Linear(3, 4), nn.Flatten(2), nn.Linear(8, 2)), (5, 2, 3)),
    "not flattened": (lambda: chain(conv(3, 4, 1), nn.Linear(4, 2)), (3, 5, 4)),
    "activation": (lambda: chain(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), (4,)),
    "frozen": (lambda: frozen(chain(nn.Linear(4, 4), nn.Linear(4, 4))), (4,)),
    "tied": (lambda: tied(chain(nn.Linear(4, 4), nn.Linear(4, 4))), (4,)),
    "shared": (shared, (4,)),
    "two readers": (TwoReaders, (4,)),
    "output": (Returned, (4,)),
    "two readers, one an average": (Pooled, (4, 4, 4)),
    "two readers of a flattening": (FlattenedTwice, (4,)),
    "flattened by keyword": (ByKeyword, (4,)),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_layers_that_stay_apart(name: str) -> None:
    build, shape = APART[name]
    net = build()
    plain = verify_fused(net, torch.randn(3, *shape))
    assert list(layers_of(plain)) == list(layers_of(net))


POOLS: dict[str, Callable[[], nn.Module]] = {
    "padded": lambda: nn.AvgPool2d(2, padding=1),
    "divided": lambda: nn.AvgPool2d(2, divisor_override=3),
    "adaptive": lambda: nn.AdaptiveAvgPool2d(5),
    "adaptive in one": lambda: nn.AdaptiveAvgPool2d((1, None)),
    "maximum": lambda: nn.MaxPool2d(2),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("first", ["1x1", "3x3", "strided", "padded"])
def test_averages_that_stay_behind(pool: str, first: str) -> None:
    """The average over padded windows of a bias is not the bias; one that enlarges maps would cost more before."""
    build = {"1x1": (1,), "3x3": (3,), "strided": (1, 2), "padded": (1, 1, 1)}[first]
    net = chain(conv(4, 4, *build), POOLS[pool](), conv(4, 4, 1))
    plain = verify_fused(net, torch.randn(2, 4, 4, 4))
    assert [str(node.target) for node in plain.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]


def test_a_bias_of_zeros_does_not_mind_padding() -> None:
    net = zero_bias(chain(conv(4, 5, 1), conv(5, 3, 3, padding=1)))
    plain = verify_fused(net, torch.randn(3, 4, 6, 5))
    assert list(layers_of(plain)) == ["1"]


def test_positions_that_padding_adds_are_paid_for() -> None:
    """Padded by one the 3x3 convolution works where the 1x1 one did; 63 weights instead of 42 and 54."""
    net = chain(conv(7, 6, 1, bias=False), conv(6, 1, 3, padding=1, bias=False))
    assert list(layers_of(verify_fused(net, torch.randn(3, 7, 4, 4)))) == ["1"]


class Overwritten(nn.Module):
    """The input of the first layer is overwritten before the later layer is called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.later = (nn.Linear(4, 4) for _ in range(3))
        self.maps, self.out = nn.Conv1d(1, 3, 1), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        row, maps = self.first(x), self.maps(x[:, None]).flatten(1)
        x = F.relu(x, inplace=True)
        x += 1
        return torch.cat([self.later(row) + x, self.out(maps)], 1)


def test_inputs_are_read_before_they_are_overwritten() -> None:
    net, x = Overwritten().double(), torch.randn(5, 4, dtype=torch.float64)
    plain = compact(net)
    assert list(layers_of(plain)) == ["stem", "later", "out"]
    with torch.no_grad():
        assert difference(plain(x), net(x)) <= 1e-10
