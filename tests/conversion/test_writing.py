"""Parts of tensors that are written over: a new tensor takes the place of the old one, or the module stays whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import Whole, gates_of
from tests.conversion.small import distance, switch_off

Change = Callable[[Tensor, nn.Module], Tensor]


def added(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[:, 1:] = y[:, 1:] + h[:, 1:]
    return y


def added_in_place(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h).relu()
    y[:, 1:3] += h[:, 2:4]
    return y


def cleared(h: Tensor, layer: nn.Module) -> Tensor:
    h = torch.relu(h)
    h[:, 0] = 0
    return layer(h)


def last_one(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[:, -1, :] = h[:, 0]
    return y * 2


def shifted(h: Tensor, layer: nn.Module) -> Tensor:
    y = torch.zeros_like(h)
    y[:, 1:] = h[:, :-1]
    y[:, :1] = h[:, -1:]
    return layer(y)


def whole(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[...] = h
    y += 1
    return y + h


def masked(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[(h[..., :1] > 0).expand_as(y)] = 0.25
    return y


def two_dimensions(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h).unflatten(1, (2, 3))
    y[:, 1:, 1:] = h.unflatten(1, (2, 3))[:, :1, :2].float().sum(2, keepdim=True)
    return y.flatten(1, 2)


def view_is_read(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    first = y[:, 0]
    y[:, 0] = 0
    return y + first[:, None]


def through_a_view(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y.transpose(1, 2)[:, :, 1:] = 1.5
    return y


def by_steps(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[:, ::2] = 0
    return y


class Inner(nn.Module):
    def __init__(self, change: Change):
        super().__init__()
        self.change, self.layer = change, nn.Linear(8, 8)

    def forward(self, h: Tensor) -> Tensor:
        return self.change(h, self.layer)


class Net(nn.Module):
    def __init__(self, change: Change):
        super().__init__()
        self.first, self.inner, self.hidden, self.last = (
            nn.Linear(5, 8),
            Inner(change),
            nn.Linear(8, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.inner(self.first(x).relu())).relu()).mean(1)


def converted(change: Change) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = Net(change).double().eval(), torch.randn(2, 6, 5).double()
    net = bp.convert(model, example_input=x, streams=True)
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    for inputs in (x, torch.randn(5, 6, 5).double()):
        assert distance(small(inputs), net(inputs)) < 1e-12
    return net, small, x


@pytest.mark.parametrize(
    "change, gates",
    [
        (added, ["first_gate", "hidden_gate"]),  # of both layers together
        (added_in_place, ["first_gate", "hidden_gate"]),
        (cleared, ["inner.layer_gate", "hidden_gate"]),
        (last_one, None),
        (shifted, None),
        (whole, None),
        (masked, None),
        (two_dimensions, None),
    ],
)
def test_what_is_written_is_followed(change: Change, gates: list[str] | None, tmp_path: Path) -> None:
    net, small, x = converted(change)
    assert not any(isinstance(module, Whole) for module in net.modules())
    assert gates is None or set(gates_of(net)) == set(gates)
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


@pytest.mark.parametrize(
    "change, reason",
    [(view_is_read, "shares memory"), (through_a_view, "shares memory"), (by_steps, "written over by steps")],
)
def test_a_module_whose_old_memory_is_read_stays_whole(change: Change, reason: str) -> None:
    net, _, _ = converted(change)
    inner = net.get_submodule("inner")
    assert isinstance(inner, Whole) and reason in inner.reason


def test_an_input_is_not_written_over() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[:, 0] = 0
            return x

    x = torch.randn(2, 5)
    net = bp.convert(nn.Sequential(First(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), example_input=x)
    inner = net.get_submodule("0")
    assert isinstance(inner, Whole) and "a part of an input" in inner.reason
