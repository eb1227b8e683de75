"""A module of one's own with a record is followed by that record, and not through its forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bayesprune import BayesianNet, compact, cost, layers
from bayesprune.errors import TraceError
from bayesprune.ops import Operation, registry
from bayesprune.ops.entrywise import pointwise


class Ordered(nn.Module):
    """The square of an entry, by a way that cannot be followed: the numbers decide what is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square() if float(x.detach().sum()) > 0 else x * x


def network() -> nn.Module:
    return nn.Sequential(layers.Linear(4, 6, gate="unit"), Ordered(), nn.Linear(6, 2)).double()


def test_by_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Operation(name="ordered", modules=(Ordered,), entries=pointwise, pointwise=True)
    monkeypatch.setitem(registry._BY_TARGET, Ordered, record)
    torch.manual_seed(0)
    bnn = BayesianNet(network(), "gaussian", num_data=10).eval()
    with torch.no_grad():
        bnn.theta[:2] = 0.0
    small = compact(bnn)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(small(x), bnn.net(x), rtol=0, atol=1e-12)
    assert cost(small, x).params == (4 + 1) * 4 + (4 + 1) * 2


def test_without_one_its_forward_pass_is_followed() -> None:
    with pytest.raises(TraceError, match="the forward pass of Sequential cannot be followed"):
        BayesianNet(network(), "gaussian", num_data=10)
