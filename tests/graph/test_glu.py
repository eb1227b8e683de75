"""Gated linear units: both halves of what they are given are cut together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune import layers
from bayesprune.errors import GateError
from bayesprune.graph import check_gates, gates_of
from bayesprune.layers import Gate
from bayesprune.pruning import compact, cost
from tests.graph.test_axes import Apply, some_off, verify

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # with the parameters a gate takes along
    "features": (lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), Gate(4), nn.Linear(4, 2)), (3,), 2 * 4 + 2),
    "sequences": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), Gate(4, dim=-1), nn.Linear(4, 2)), (5, 3), 2 * 4 + 2,
    ),
    "maps": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.GLU(1), Gate(4), nn.Conv2d(4, 2, 1)),
        (2, 6, 6), 2 * (18 + 1 + 2) + 2,
    ),
    "a function": (
        lambda: nn.Sequential(nn.Conv1d(2, 6, 3), Apply(lambda h: F.glu(h, dim=-2)), Gate(3), nn.Conv1d(3, 2, 1)),
        (2, 9), 2 * 7 + 2,
    ),
    "over space": (
        lambda: nn.Sequential(layers.Conv1d(2, 4, 2, gate="unit"), nn.Sigmoid(), nn.GLU(2), nn.Conv1d(4, 2, 1)),
        (2, 9), 2 * 2 + 1 + 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_exact(name: str) -> None:
    build, shape, gone = NETS[name]
    for seed in range(3):
        torch.manual_seed(seed)
        net, x = build(), torch.randn(3, *shape)
        some_off(net, seed)
        verify(net, x, x)
    left = []
    for first in (1.0, 0.0):
        for gate in gates_of(net).values():
            with torch.no_grad():
                gate.theta.fill_(1.0)[0] = first
        left.append(cost(compact(net, example_input=x)).params)
    assert left[0] - left[1] == gone


@pytest.mark.parametrize("off", [[0], [4], [0, 4], [1, 5, 6]])
def test_gates_before_it(off: list[int]) -> None:
    """What goes are the entries of which the factor is off; one whose sigmoid alone is off is halved and stays."""
    net = nn.Sequential(layers.Linear(3, 8, gate="unit"), nn.GLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].gate.theta.fill_(1.0)[off] = 0.0
    plain = verify(net, torch.randn(5, 3), torch.randn(1, 3))
    left = dict(plain.named_parameters())["2.weight"].shape[1]
    assert left == 4 - sum(k < 4 for k in off)


def test_refused() -> None:
    over_the_batch = Apply(lambda h: F.glu(h, 0))
    with pytest.raises(GateError, match="reaches glu, through which"):
        check_gates(nn.Sequential(layers.Conv1d(2, 4, 1, gate="unit"), over_the_batch, nn.Conv1d(4, 2, 1)))
    with pytest.raises(GateError, match="reaches 1; pass example_input"):
        check_gates(nn.Sequential(Gate(4), nn.GLU(2), nn.Flatten(), nn.Linear(8, 2)))
