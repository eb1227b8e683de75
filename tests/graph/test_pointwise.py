"""Records that say that an operation is pointwise are right: units behind it go, and the outputs stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.ops import OPERATIONS
from bayesprune.pruning import compact, shrink

NUMBERS: dict[str, tuple[float, ...]] = {"pow": (2.0,), "clamp": (-0.3, 0.4), "clamp_max": (0.3,), "clamp_min": (-0.2,)}
NUMBERS |= {"threshold": (0.1, 0.7), "_threshold": (0.1, 0.7), "maximum": (0.2,), "minimum": (0.2,)}
"""What functions are given besides a tensor."""


def calls() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    for operation in OPERATIONS:
        if not operation.pointwise:
            continue
        for function in operation.all_functions:
            numbers = NUMBERS.get(function.__name__, ())
            yield f"{function.__module__}.{function.__name__}", lambda y, f=function, n=numbers: f(y, *n)
        for method in operation.all_methods:
            numbers = NUMBERS.get(method.removesuffix("_"), ())
            yield f".{method}", lambda y, m=method, n=numbers: getattr(y, m)(*n)


CALLS = dict(calls())


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = layers.Linear(4, 6, gate="unit"), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize("name", CALLS)
def test_units_go_and_outputs_stay(name: str) -> None:
    torch.manual_seed(0)
    net = Net(CALLS[name]).double().eval()
    off = torch.tensor([True, False, False, True, False, False])
    with torch.no_grad():
        net.first.gate.theta.copy_(~off)
    x = torch.randn(5, 4, dtype=torch.float64)
    smaller, _ = shrink(net, {"first": off})
    at_zero = CALLS[name](torch.zeros(1, dtype=torch.float64))
    left = 4 if bool(at_zero.isfinite()) else 6
    assert smaller.first.out_features == smaller.second.in_features == left
    for network in (smaller, compact(net)) if left == 4 else ():
        assert torch.allclose(network(x), net(x), atol=1e-12, rtol=1e-12, equal_nan=True)


@pytest.mark.parametrize("low", [-1.0, 0.25])
def test_single_numbers_in_buffers_bound_entries(low: float) -> None:
    """Bounds as Gemma's layers have them: what they make of 0 goes into the next bias."""

    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.last = nn.Linear(4, 6), layers.Gate(6), nn.Linear(6, 2)
            self.register_buffer("low", torch.tensor(low))
            self.register_buffer("high", torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.clamp(self.gate(self.first(x)), self.low, self.high))

    torch.manual_seed(0)
    net, x = Bounded().double(), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        net.gate.theta[:4] = 0.0
    small = compact(net.eval(), example_input=x)
    assert small.get_submodule("first").out_features == 2
    torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-12)
