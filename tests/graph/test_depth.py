"""How many gates with a draw for each example a signal passes in a row."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from bayesprune import convert
from bayesprune.graph import gates_in_a_row, trace
from bayesprune.layers import Gate, Linear, Residual
from bayesprune.networks import lenet5, lenet300, resmlp


def chain(count: int) -> nn.Sequential:
    return nn.Sequential(*(Linear(2, 2, gate="unit") for _ in range(count)))


class Apart(nn.Module):
    """Three gates beside one, and then two."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short, self.last = chain(3), chain(1), chain(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.long(x) + self.short(x))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2)), 0),
        (lambda: chain(7), 7),
        (Apart, 5),
        (lambda: nn.Sequential(*(Residual(nn.Linear(2, 2)) for _ in range(9))), 0),  # one draw for a batch
        (lambda: nn.Sequential(*(Residual(chain(2)) for _ in range(3))), 6),
        (lambda: nn.Sequential(Gate(2), Gate(2, per_batch=True), Gate(2)), 2),
        (lambda: lenet300((1, 28, 28), 10), 3),
        (lambda: lenet5((1, 28, 28), 10), 4),
        (lambda: resmlp((4,), 2, depth=24), 0),
    ],
)
def test_gates_in_a_row(make, count: int) -> None:
    assert gates_in_a_row(trace(make().eval())) == count


def test_a_converted_network_has_them_where_its_layers_are() -> None:
    net = convert(nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(3, 3), nn.ReLU()))))
    assert gates_in_a_row(trace(net)) == 5
