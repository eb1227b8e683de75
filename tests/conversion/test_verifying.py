"""What is followed wrongly is not handed over: outputs are compared with those of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.errors import TraceError


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


class Net(nn.Module):
    """Two layers, with something in between."""

    def __init__(self, between: Callable[[Any, Tensor, Tensor], Tensor]):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 6), two_layers(), between
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.between(self, self.first(x), x)))


class Shared(nn.Linear):
    """A layer with weights of its own for two calls."""

    def __init__(self) -> None:
        super().__init__(4, 6)
        self.other = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(F.linear(x, self.other)) * F.linear(x, self.weight, self.bias)


def counted(net: Any, h: Tensor, x: Tensor) -> Tensor:
    net.calls = net.calls + 1
    return h * net.calls


@pytest.mark.parametrize(
    "between",
    [
        lambda net, h, x: h if isinstance(h, Tensor) else -h,
        lambda net, h, x: h + torch.randn(6),
        counted,
    ],
    ids=["a test of kinds", "random numbers", "something kept"],
)
def test_another_network_is_refused(between: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    with pytest.raises(TraceError, match="what was followed of Net gives other outputs than the model"):
        bp.convert(Net(between).double(), example_input=x)


def test_a_layer_that_has_other_weights_than_its_own() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Shared(), nn.ReLU(), two_layers()).double().eval(), torch.randn(3, 4).double()
    net = bp.convert(model, example_input=x)
    torch.testing.assert_close(net(x), model(x))
    assert not isinstance(net.get_submodule("0"), nn.Linear)


def test_a_mask_may_be_of_another_kind_than_the_example_s() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), two_layers()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x)).masked_fill(mask.to(torch.bool), 0.0))

    torch.manual_seed(0)
    model, x, mask = Masked().eval(), torch.randn(3, 4), torch.rand(3, 6) > 0.5
    net = bp.convert(model, example_input=(x, mask))
    torch.testing.assert_close(net(x, mask.long()), model(x, mask.long()))


def test_normalisations_without_scales_are_followed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )
    x = torch.randn(2, 3, 8, 8)
    net = bp.convert(model.eval(), example_input=x)
    torch.testing.assert_close(net(x), model(x))
    assert [group.size for group in bp.groups(net, example_input=x) if group.gates] == [4]
