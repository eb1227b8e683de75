"""Small networks in which one gate multiplies in several places, for three inputs or maps of two channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers import Gate, Residual


def stream() -> nn.Module:
    """A residual stream all writers of which carry one gate, with units and a branch gate besides: seven gates."""
    wide = Gate(3, dim=-1)
    bodies = [
        nn.Sequential(layers.Linear(3, size, gate="unit"), nn.Tanh(), layers.Linear(size, 3, gate=wide))
        for size in (2, 1)
    ]
    return nn.Sequential(layers.Linear(3, 3, gate=wide), nn.Tanh(), *map(Residual, bodies), nn.Linear(3, 3))


def together() -> nn.Module:
    """Three branches, two of which go together, the last with units inside that share a gate with a layer outside."""
    both, units = Gate(1, per_batch=True), Gate(2, dim=-1)
    inner = nn.Sequential(layers.Linear(3, 2, gate=units), nn.Tanh(), nn.Linear(2, 3))
    return nn.Sequential(
        Residual(nn.Linear(3, 3), gate=both),
        nn.Tanh(),
        Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh())),
        Residual(inner, gate=both),
        layers.Linear(3, 2, gate=units),
        nn.Tanh(),
        nn.Linear(2, 3),
    )


class Twice(nn.Module):
    """A gate that forward calls twice, on what one layer gives and on what another does."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(4)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(self.gate(torch.tanh(self.first(x)))) + self.right(self.gate(torch.tanh(self.second(x))))


class Product(nn.Module):
    """Queries and keys of one gate: an entry of their product is there or not."""

    def __init__(self) -> None:
        super().__init__()
        gate = Gate(4, dim=-1)
        self.query, self.key = layers.Linear(3, 4, gate=gate), layers.Linear(3, 4, gate=gate)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.query(x) * self.key(x))


class Inputs(nn.Module):
    """A gate on the network's inputs, called for each of two layers that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(3)
        self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(self.gate(x)) + torch.tanh(self.right(self.gate(x)))


class Block(nn.Module):
    """A residual block as torchvision builds them, its second convolution behind the gate of the stream."""

    def __init__(self, width: int, gate: Gate):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu, self.inner, self.gate = nn.ReLU(), Gate(width), gate
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(self.relu(self.bn1(self.conv1(x))))
        out = self.gate(self.bn2(self.conv2(out)))
        return self.relu(out + x)


class Stage(nn.Module):
    """A stage of a residual network, the channels of its stream gated alike wherever they are written."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.stream = Gate(width)
        self.conv, self.bn, self.relu = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        self.blocks = nn.Sequential(Block(width, self.stream), Block(width, self.stream))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stream(self.relu(self.bn(self.conv(x)))))
        return self.head(self.pool(x).flatten(1))


def separable() -> nn.Module:
    """Convolution, depthwise convolution, convolution: one gate on the channels of the first two."""
    wide = Gate(4)
    return nn.Sequential(
        layers.Conv2d(2, 4, 3, padding=1, gate=wide), nn.ReLU(),
        layers.Conv2d(4, 4, 3, padding=1, groups=4, gate=wide), nn.ReLU(),
        layers.Conv2d(4, 3, 1, gate="unit"), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3),
    )  # fmt: skip


VECTORS = {"stream": stream, "together": together, "twice": Twice, "product": Product, "inputs": Inputs}
"""Networks of three inputs."""
MAPS = {"stage": Stage, "separable": separable}
"""Networks of maps of two channels."""


def example(name: str, rows: int = 5) -> Tensor:
    """Inputs of the network ``name``, float64."""
    return torch.randn(rows, *((3,) if name in VECTORS else (2, 6, 6)), dtype=torch.float64)
