"""Small networks with every kind of gate, and their mean cost by enumeration of all gate vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.networks import lenet5, lenet300, resmlp
from bayesprune.pruning import cost, shrink
from tests.pruning.verify import off_by_mode


def normalised_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), Gate(3), nn.MaxPool2d(2),
        layers.Conv2d(3, 2, 3, gate="unit"), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        layers.Conv2d(1, 4, 3, gate="unit"), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(),
        nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(72, 2),
    )  # fmt: skip


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), Gate(3), layers.Linear(3, 3, gate="unit"), nn.ReLU(), layers.Linear(3, 2, gate="unit"),
        nn.ReLU(), nn.Linear(2, 2),
    )  # fmt: skip


def branches() -> nn.Module:
    inner = nn.Sequential(layers.Linear(4, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 4))
    return nn.Sequential(
        nn.Linear(3, 4), Residual(inner), Residual(nn.Linear(4, 4)),
        Residual(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), nn.Linear(4, 2, bias=False)), nn.Linear(2, 2),
    )  # fmt: skip


def stream() -> nn.Module:
    """Units that write where a branch writes as well: they go only together with it."""
    return nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU(), Residual(nn.Linear(4, 4)), nn.Linear(4, 2))


def grouped() -> nn.Module:
    """What the analysis cannot follow keeps its full cost."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.LayerNorm(144), layers.Linear(144, 3, gate="unit"),
        nn.PReLU(), nn.Linear(3, 2),
    )  # fmt: skip


def nested() -> nn.Module:
    """A branch within a branch, with units of its own."""
    inner = Residual(nn.Sequential(layers.Linear(4, 2, gate="unit"), nn.ReLU(), nn.Linear(2, 4)))
    outer = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), inner, nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(3, 4), Residual(outer), nn.Linear(4, 2))


def normed() -> nn.Module:
    """Branches with operations that the analysis cannot follow, in the middle and at the end."""
    return nn.Sequential(
        nn.Linear(3, 4), Residual(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 4))),
        Residual(nn.Sequential(nn.Linear(4, 4), nn.PReLU(4), nn.Linear(4, 4), nn.LayerNorm(4))), nn.Linear(4, 2),
    )  # fmt: skip


def deep() -> nn.Module:
    """Two layers of gated units within one branch."""
    body = nn.Sequential(
        layers.Linear(4, 3, gate="unit"), nn.ReLU(), layers.Linear(3, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 4)
    )
    return nn.Sequential(nn.Linear(3, 4), Residual(body), nn.Linear(4, 2))


class SelfAttention(nn.Module):
    """One head; its products belong to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))


def attention() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4), Residual(SelfAttention()), Residual(nn.Sequential(nn.LayerNorm(4), SelfAttention())),
        nn.Linear(4, 2),
    )  # fmt: skip


def residual_conv() -> nn.Module:
    """Gates on channels within a branch and on branches, one of them around a projection."""

    def conv(a: int, b: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b))

    return nn.Sequential(
        conv(1, 3), nn.ReLU(), Residual(nn.Sequential(conv(3, 3), nn.ReLU(), Gate(3), conv(3, 3))), nn.ReLU(),
        Residual(nn.Sequential(conv(3, 4, 2), nn.ReLU(), conv(4, 4)), nn.Conv2d(3, 4, 1, 2)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


class Joined(nn.Module):
    """Two gated layers side by side, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = layers.Linear(3, 2, gate="unit"), layers.Linear(3, 3, gate="unit")
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(torch.cat([self.left(x), self.right(x)], dim=1)))


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    lenet300: (1, 28, 28), lenet5: (1, 28, 28), resmlp: (1, 28, 28), normalised_conv: (1, 8, 8), depthwise: (1, 8, 8),
    perceptron: (3,), branches: (3,), stream: (3,), grouped: (2, 8, 8),
    nested: (3,), normed: (3,), deep: (3,), attention: (5, 3), residual_conv: (1, 8, 8), Joined: (3,),
}  # fmt: skip


def example(build: Callable[[], nn.Module]) -> Tensor:
    return torch.randn(2, *SHAPES[build])


def probabilities(net: nn.Module, value: float | None = None) -> dict[str, Tensor]:
    """θ by gate: ``value``, or random numbers of which the first of every gate of several is 1, so that none dies."""
    thetas = {}
    for name, gate in gates_of(net).items():
        thetas[name] = torch.rand(gate.size) if value is None else torch.full((gate.size,), value)
        if value is None and gate.size > 1:
            thetas[name][0] = 1.0
    return thetas


def enumerated(net: nn.Module, x: Tensor, theta: dict[str, Tensor]) -> tuple[float, float]:
    """Mean cost of the network that surgery leaves over all gate vectors of positive probability."""
    gates = gates_of(net)
    names, flat = list(gates), torch.cat([theta[name] for name in gates]).double()
    free = [s for s in range(len(flat)) if flat[s] < 1]
    assert len(free) <= 8
    params = macs = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=len(free)):
        vector = torch.ones_like(flat)
        vector[free] = torch.tensor(bits, dtype=torch.float64)
        weight = float(torch.where(vector > 0, flat, 1 - flat).prod())
        with torch.no_grad():
            for name, part in zip(names, vector.split([gates[n].size for n in names]), strict=True):
                gates[name].theta.copy_(part)
        size = cost(shrink(net, off_by_mode(net), may_empty=True)[0], x)  # compact also fuses linear maps
        assert size.macs is not None
        params, macs = params + weight * size.params, macs + weight * size.macs
    return params, macs
