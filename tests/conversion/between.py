"""A small network with something behind its second layer, for tests of what a forward pass may do there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.layers import gates_of


class Net(nn.Module):
    """Three layers, with something behind the second."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)
        self.between = between
        self.register_buffer("kept", torch.full((6,), 0.5))
        self.head = nn.Parameter(torch.randn(4))
        self.register_buffer("rest", torch.randn(2))
        self.norm = nn.BatchNorm1d(6)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, torch.relu(self.first(x))))


def net_of(between: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return Net(between).double().eval()


def rows(count: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def all_on(net: nn.Module) -> nn.Module:
    for gate in gates_of(net).values():
        nn.init.ones_(gate.theta)
    return net
