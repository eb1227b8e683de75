"""Kinds of numbers and devices that a forward pass reads of tensors: those of each pass, not of the one followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off


class Reads(nn.Module):
    """Makes zeros and positions of the kind that its input has, and lets a mask have that of what it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.held, self.out = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 5, dtype=x.dtype, device=x.device)
        for _ in range(2):
            h = torch.tanh(self.given(x) + self.held(h))
        mask = x[:, :1] > 0
        return self.out(h * mask.to(h.dtype) + x.new_ones(len(x), 1))


def examples() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def converted() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Reads().eval()
    net = bp.convert(model, example_input=examples())
    for gate in gates_of(net).values():
        nn.init.ones_(gate.theta)
    return model, net


def test_other_kinds_of_numbers() -> None:
    model, net = converted()
    x = examples()
    assert distance(net.double()(x.double()), model.double()(x.double())) < 1e-12
    assert net(x.double()).dtype == torch.float64
    assert torch.equal(net.bfloat16()(x.bfloat16()), model.bfloat16()(x.bfloat16()))


def test_autocast() -> None:
    model, net = converted()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(examples()), model(examples()))
        switch_off(net)
        small = bp.compact(net, example_input=examples())
        found, expected = small(examples()), net(examples())
    assert found.dtype == torch.bfloat16 and distance(found.float(), expected.float()) < 0.02


def test_another_device() -> None:
    _, net = converted()
    switch_off(net)
    small = bp.compact(net, example_input=examples())
    for each in (net, small):
        assert each.to("meta")(examples().to("meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model, net = converted()
    x = examples().cuda()
    assert distance(net.cuda()(x), model.cuda()(x)) < 1e-5


class Starts(nn.Module):
    """A loop that begins with zeros that are moved when they are made.

    Args:
        moved: What moves them to the kind of the input.
    """

    def __init__(self, moved: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.held, self.out, self.moved = nn.LSTMCell(3, 5), nn.Linear(5, 2), moved

    def forward(self, x: Tensor) -> Tensor:
        state = (self.moved(torch.zeros(len(x), 5), x), self.moved(torch.zeros(x.shape[0], 5), x))
        for _ in range(2):
            state = self.held(x, state)
        return self.out(state[0])


MOVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "to a tensor": lambda h, x: h.to(x),
    "without waiting": lambda h, x: h.to(x, non_blocking=True),
    "type_as": lambda h, x: h.type_as(x),
    "device and kind": lambda h, x: h.to(x.device, x.dtype),
    "by name": lambda h, x: h.to(device=x.device, dtype=x.dtype),
    "in turn": lambda h, x: h.to(x.device).to(x.dtype),
}


@pytest.mark.parametrize("moved", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_zeros_that_are_moved_when_they_are_made(moved: Callable[[Tensor, Tensor], Tensor], kind: torch.dtype) -> None:
    """Followed in either kind, the copy works in float64 and elsewhere, and units go with their zeros."""
    torch.manual_seed(0)
    model, x = Starts(moved).eval(), examples().double()
    net = bp.convert(model.to(kind), example_input=x.to(kind)).double()
    gate = gates_of(net)["held.ih_gate"]
    gate.theta.data = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("held.hh").in_features == 3 and distance(small(x), net(x)) < 1e-12
    nn.init.ones_(gate.theta)
    assert distance(net(x), model.double()(x)) < 1e-12
    assert net.to("meta")(x.to("meta")).device.type == "meta"
