"""Networks as they are written every day: ways to flatten, sizes written out, several inputs and outputs, U-Nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.graph import trace
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off


class Spelled(nn.Module):
    """Six maps of 4 x 4, and a way from them to a linear layer."""

    def __init__(self, way: Callable[[Spelled, Tensor], Tensor], features: int):
        super().__init__()
        self.way = way
        self.conv, self.out = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(features, 3)
        self.scale, self.bias = nn.Parameter(torch.rand(6, 1, 1)), nn.Parameter(torch.rand(6, 1, 1))
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 1, 0, 1]).view(6, 1, 1))
        self.unflatten = nn.Unflatten(1, (6, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.way(self, F.relu(self.conv(x))))


WAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "view(-1, 6*4*4)": (lambda net, h: h.view(-1, 6 * 4 * 4), 96),
    "view(n, 96)": (lambda net, h: h.view(h.size(0), 96), 96),
    "view(len(h), -1)": (lambda net, h: h.view(len(h), -1), 96),
    "reshape((-1, 96))": (lambda net, h: h.reshape((-1, 96)), 96),
    "flatten(h, 1, 3)": (lambda net, h: torch.flatten(h, 1, 3), 96),
    "unflatten": (lambda net, h: h.flatten(1).unflatten(1, (6, 16)).mean(2), 6),
    "nn.Unflatten": (lambda net, h: net.unflatten(h.flatten(1)).mean((2, 3)), 6),
    "mean(1) of (B, T, F)": (lambda net, h: h.flatten(2).transpose(1, 2).mean(1), 6),
    "a mask": (lambda net, h: (h * net.mask).flatten(1), 96),
    "a scale": (lambda net, h: (h * net.scale).flatten(1), 96),
    "a bias": (lambda net, h: (h + net.bias).flatten(1), 96),
    "squeeze(-1)": (lambda net, h: F.adaptive_avg_pool2d(h, 1).squeeze(-1).squeeze(-1), 6),
    "sum((2, 3))": (lambda net, h: h.sum((2, 3)), 6),
    "max(2)[0]": (lambda net, h: h.flatten(2).max(2)[0], 6),
    "torch.log": (lambda net, h: torch.log(h + 1).mean((2, 3)), 6),
    "chunk": (lambda net, h: torch.cat(h.chunk(2, 1)[::-1], 1).mean((2, 3)), 6),
    "cat": (lambda net, h: torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1), 12),
}


@pytest.mark.parametrize("spelling", WAYS)
def test_a_spelling(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Spelled(*WAYS[spelling]).double().eval(), torch.randn(2, 3, 4, 4).double()
    net = bp.convert(model, example_input=x)
    assert {name: gate.size for name, gate in gates_of(net).items()} == {"conv_gate": 6}
    assert distance(net(x), model(x)) < 1e-12
    with torch.no_grad():
        gates_of(net)["conv_gate"].theta[[1, 4]] = 0.0  # which go together where halves change places
    small: Any = bp.compact(net, example_input=x)
    x = torch.randn(5, 3, 4, 4).double()
    assert small.get_submodule("conv").out_channels == 4
    assert distance(small(x), net(x)) < 1e-12


class Parts(nn.Module):
    """Attention whose queries, keys and values are parts of one tensor, of a size that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.out = nn.Linear(12, 36), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, 3)).transpose(1, 2) for part in self.parts(x).split(12, dim=2))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("off", [[0], [1, 2], [0, 3], [1, 2, 3]])
def test_parts_stay_in_their_places(off: list[int]) -> None:
    """Half of the heads off leave a third part that would also be the second of two larger ones."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 12).double()
    net = bp.convert(Parts().double().eval(), example_input=x)
    with torch.no_grad():
        gates_of(net)["heads_gate"].theta[off] = 0.0
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("parts").out_features == 9 * (4 - len(off))
    assert distance(small(x), net(x)) < 1e-12


def test_len_is_what_it_was_after_a_trace_that_fails_as_well() -> None:
    trace(Spelled(*WAYS["view(len(h), -1)"]))
    with pytest.raises(bp.errors.TraceError, match="cannot be followed"):
        trace(Spelled(lambda net, h: h if h.sum() > 0 else -h, 6))
    assert "len" not in globals()


class UNet(nn.Module):
    """Down, up, and across, with two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
        self.down = nn.Sequential(nn.Conv2d(4, 6, 2, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 5, 2, 2)
        self.merge = nn.Sequential(nn.Conv2d(9, 7, 3, padding=1), nn.ReLU())
        self.out, self.label = nn.Conv2d(7, 2, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor, other: Tensor) -> dict[str, Tensor]:
        across = F.relu(self.first(x) + self.other(other))
        below = self.down(across)
        merged = self.merge(torch.cat([F.relu(self.up(below)), across], dim=1))
        return {"map": self.out(merged), "label": self.label(below.mean((2, 3)))}


def test_a_u_net_of_two_inputs_and_two_outputs() -> None:
    torch.manual_seed(0)
    model = UNet().double().eval()
    x, other = torch.randn(3, 3, 8, 8).double(), torch.randn(3, 1, 8, 8).double()
    net = bp.convert(model, example_input=(x, other), streams=True)
    assert sorted(gate.size for gate in gates_of(net).values()) == [4, 5, 6, 7]
    switch_off(net)
    small = bp.compact(net, example_input=(x, other))
    for key, value in net(x, other).items():
        assert distance(small(x, other)[key], value) < 1e-12
    assert small.get_submodule("up").in_channels == small.get_submodule("down.0").out_channels != 6


class Sequence(nn.Module):
    """A decoder that reads what an encoder gives, by attention written out, with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder, self.decoder = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(8, 12)
        self.q, self.kv, self.out = nn.Linear(12, 8), nn.Linear(12, 16), nn.Linear(8, 9)

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        memory, x = (F.gelu(f(self.words(t))) for f, t in ((self.encoder, source), (self.decoder, target)))
        q = self.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
        k, v = self.kv(memory).view(len(memory), -1, 2, 4, 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        scores = self.out(y)
        return scores, scores.softmax(-1)


def test_an_encoder_and_a_decoder() -> None:
    torch.manual_seed(0)
    model = Sequence().double().eval()
    given = torch.randint(9, (3, 5)), torch.randint(9, (3, 4))
    net = bp.convert(model, example_input=given)
    assert sorted(gate.size for gate in gates_of(net).values()) == [4, 8, 12, 12]
    switch_off(net)
    small = bp.compact(net, example_input=given)
    assert all(distance(a, b) < 1e-12 for a, b in zip(small(*given), net(*given), strict=True))
