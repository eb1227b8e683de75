"""Parts of tensors that are written over: a new tensor takes the place of the old one, or the module stays whole."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.errors import TraceError
from bayesprune.layers import Whole, gates_of
from tests.conversion.between import all_on
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


def nothing(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[:, 5:3] = 2
    y[..., -2:5] = h[..., :0]
    return y + h


def view_is_read(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    first = y[:, 0]
    y[:, 0] = 0
    return y + first[:, None]


def through_a_view(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y.transpose(1, 2)[:, :, 1:] = 1.5
    return y


def of_some_examples(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    y[1:-1] = 0
    return y


def without_gradient(h: Tensor, layer: nn.Module) -> Tensor:
    y = layer(h)
    with torch.no_grad():
        y[:, 0] = 0
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
        (nothing, ["first_gate", "inner.residual", "hidden_gate"]),
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
    [
        (view_is_read, "shares memory"),
        (through_a_view, "shares memory"),
        (by_steps, "written over by steps"),
        (of_some_examples, "the number of examples"),
        (without_gradient, "without gradient"),
    ],
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


def over_a_mask(part: Tensor) -> None:
    part[part > 9] = 9  # of no example


def over_some(part: Tensor) -> None:
    part[2:] = 3  # more examples than are compared


def at_once(part: Tensor) -> None:
    part.clamp_(max=9)


class Sharing(nn.Module):
    """Writes over what lies in the memory of what it reads, as no example shows."""

    def __init__(self, share: Change, write: Callable[[Tensor], None], ends: bool = False):
        super().__init__()
        self.share, self.write, self.ends = share, write, ends
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.some = nn.ModuleList([nn.Flatten(), nn.Identity(), nn.Dropout(0.5), nn.Unflatten(1, (2, 4))])

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) + 0.1
        self.write(self.share(h, self))
        return h if self.ends else self.last(h)


PARTS: list[Callable[[Tensor, Any], Tensor]] = [
    *[lambda h, net, i=i: net.some[i](h) for i in range(4)],
    lambda h, net: h.data,
    lambda h, net: h.cpu(),
    lambda h, net: h.real,
    lambda h, net: h.adjoint(),
    lambda h, net: torch.hsplit(h, 2)[0],
    lambda h, net: torch.einsum("ij->ji", h),
    lambda h, net: torch.atleast_2d(h),
    lambda h, net: torch.broadcast_tensors(h)[0],
    lambda h, net: F.alpha_dropout(h, 0.5, False),
]
SELF: list[Callable[[Tensor, Any], Tensor]] = [
    lambda h, net: h.clamp_(-9, 9),
    lambda h, net: operator.iadd(h, 0),
    lambda h, net: F.hardtanh(h, -9, 9, inplace=True),
]


@pytest.mark.parametrize("share", [*PARTS, *SELF])
def test_what_shares_memory_is_seen_for_the_examples(share: Change) -> None:
    x = 0.1 * torch.randn(2, 6)
    for write, ends in ((over_a_mask, False), (over_some, True)):
        with pytest.raises(TraceError, match="shares memory"):
            bp.convert(Sharing(share, write, ends).eval(), example_input=x)
    for example in (x, None):
        with pytest.raises(TraceError, match="works in place") if share in PARTS else nullcontext():
            model = nn.Sequential(nn.Linear(6, 6), Sharing(share, at_once)).eval()
            net = all_on(bp.convert(model, example_input=example))
            assert distance(net(99 * x), model(99 * x)) < 1e-5


def test_what_is_written_at_once_without_gradient_is_refused() -> None:
    """Torch lets the gradient of what was there before pass by."""
    share = torch.no_grad()(lambda h, net: h.mul_(2))
    with pytest.raises(TraceError, match="works in place without gradient"):
        bp.convert(Sharing(share, lambda part: None).eval(), example_input=torch.randn(2, 6))
