"""Attention: heads go from queries, keys and values, and from what reads them, in every way it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.errors import GateError
from bayesprune.graph import check_gates
from bayesprune.layers import Gate
from tests.graph.moved import picked
from tests.graph.test_axes import some_off, verify
from tests.graph.test_written_sizes import as_graph

HEADS, WIDTH, STEPS = 4, 3, 5


class Attention(nn.Module):
    """Four heads of three features on (B, 5, 6): how features become heads, how they are mixed, and joined again."""

    def __init__(self, split: Callable[..., list[Tensor]], mix: Callable[..., Tensor], join: Callable[..., Tensor]):
        super().__init__()
        self.qkv, self.out, self.gate = nn.Linear(6, 36), nn.Linear(12, 6), Gate(HEADS)
        self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 12, bias=False), nn.Linear(6, 12)
        self.split, self.mix, self.join = split, mix, join

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.join(self.gate(self.mix(*self.split(self, x)))))


def fused(net: Attention, x: Tensor) -> list[Tensor]:
    return picked(net.qkv(x).reshape(x.shape[0], STEPS, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0), 0, 1, 2)


def picked_one_by_one(net: Attention, x: Tensor) -> list[Tensor]:
    h = net.qkv(x).reshape(x.size(0), x.size(1), 3, HEADS, 12 // HEADS).permute(2, 0, 3, 1, 4)
    return [h[0], h[1], h[2]]


def chunked(net: Attention, x: Tensor) -> list[Tensor]:
    parts = picked(net.qkv(x).chunk(3, dim=-1), 0, 1, 2)
    return [part.view(-1, STEPS, HEADS, WIDTH).transpose(1, 2) for part in parts]


def three_maps(net: Attention, x: Tensor) -> list[Tensor]:
    return [part(x).view(-1, STEPS, HEADS, WIDTH).transpose(1, 2) for part in (net.q, net.k, net.v)]


def unflattened(net: Attention, x: Tensor) -> list[Tensor]:
    return [part(x).unflatten(-1, (HEADS, WIDTH)).permute(0, 2, 1, 3) for part in (net.q, net.k, net.v)]


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * WIDTH**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.mT) / WIDTH**0.5
    scores = scores.masked_fill(torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1), float("-inf"))
    return torch.matmul(F.dropout(F.softmax(scores, -1).to(v.dtype), 0.1, False), v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


SPLITS = (fused, picked_one_by_one, chunked, three_maps, unflattened)
MIXES = (F.scaled_dot_product_attention, explicit, masked, causal)
JOINS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda h: h.transpose(1, 2).flatten(2),
    lambda h: h.transpose(1, 2).reshape(h.size(0), h.size(2), HEADS * WIDTH),
    lambda h: h.permute(0, 2, 1, 3).contiguous().view(-1, STEPS, 12),
)
WAYS = [(split, explicit, JOINS[0]) for split in SPLITS]
WAYS += [(fused, mix, JOINS[1]) for mix in MIXES] + [(three_maps, causal, join) for join in JOINS]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_heads_go_whole(way: int) -> None:
    torch.manual_seed(0)
    net, x = as_graph(Attention(*WAYS[way])), torch.randn(3, STEPS, 6)
    some_off(net, (0, 5, 9)[way % 3])
    plain, left = verify(net, x, x), WIDTH * int(net.gate.mode().sum())
    assert plain.get_submodule("out").in_features == left < 12
    one = WAYS[way][0] in (three_maps, unflattened)
    for name, width in dict.fromkeys("qkv", left).items() if one else (("qkv", 3 * left),):
        assert plain.get_submodule(name).out_features == width


class OfItsInput(nn.Module):
    """The sizes of heads and of what they are joined to are read of the stream, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gate, self.out = nn.Linear(12, 36), Gate(HEADS), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        mixed = self.gate(F.scaled_dot_product_attention(*picked(qkv.unbind(0), 0, 1, 2)))
        return self.out(mixed.transpose(1, 2).reshape(b, n, c))


def test_sizes_that_are_read_of_the_stream_are_left_open() -> None:
    net, x = as_graph(OfItsInput()), torch.randn(3, STEPS, 12)
    for seed in range(2):
        some_off(net, seed)
        plain, left = verify(net, x, x), WIDTH * int(net.gate.mode().sum())
        assert plain.get_submodule("qkv").out_features == 3 * left
        torch.testing.assert_close(plain(x[:1].double()), net(x[:1].double()), rtol=0, atol=1e-10)
    with pytest.raises(GateError, match="reaches reshape with sizes that are written out or computed"):
        check_gates(OfItsInput(), example_input=x)


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "a bias for each head": (
        lambda q, k, v: (q @ k.mT + torch.ones(1, HEADS, STEPS, STEPS)).softmax(-1) @ v, "along its features",
    ),
    "a mask for each head": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.ones(1, HEADS, STEPS, STEPS)),
        "reaches scaled_dot_product_attention",
    ),
    "softmax over heads": (lambda q, k, v: (q @ k.mT).softmax(1) @ v, "reaches softmax, which takes its zeros into"),
    "filled head by head": (
        lambda q, k, v: (q @ k.mT).masked_fill(torch.ones(1, HEADS, 1, 1) > 0, 0.0) @ v, "reaches masked_fill",
    ),
    "heads times something else": (lambda q, k, v: torch.ones(HEADS, STEPS, STEPS) @ v, "reaches matmul"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_heads_is_refused(name: str) -> None:
    """Gates on the heads of queries, keys and values; what is given has one entry for each of them."""
    mix, message = REFUSED[name]

    def gated(net: Attention, x: Tensor) -> list[Tensor]:
        return [net.gate(part) for part in three_maps(net, x)]

    net = as_graph(Attention(gated, mix, lambda h: h.transpose(1, 2).flatten(2)))
    with pytest.raises(GateError, match=message):
        check_gates(net, example_input=torch.randn(2, STEPS, 6))


class Products(nn.Module):
    """A matrix product of what a gate has entries of, along one dimension or another, with another tensor."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], out: nn.Module) -> None:
        super().__init__()
        self.first, self.gate, self.other, self.out = nn.Conv2d(2, 4, 1), Gate(4), nn.Conv2d(2, 1, 1), out
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.product(self.gate(F.relu(self.first(x))), self.other(x)))


PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], nn.Module]]] = {
    "a map by one": (lambda h, o: h @ o.softmax(-1), lambda: nn.Conv2d(4, 2, 1)),
    "one by a map": (lambda h, o: torch.matmul(o, h), lambda: nn.Conv2d(4, 2, 1)),
    "rows": (lambda h, o: h.flatten(2) @ o.flatten(2).mT, lambda: nn.Conv1d(4, 2, 1)),
    "columns": (lambda h, o: torch.bmm(o.flatten(2), h.flatten(2).transpose(1, 2)), lambda: nn.Linear(4, 2)),
    "summed over": (lambda h, o: h.flatten(2).mT @ h.flatten(2), lambda: nn.Linear(9, 2)),
    "values": (
        lambda h, o: F.scaled_dot_product_attention(o.flatten(2).mT, o.flatten(2).mT, h.flatten(2).mT),
        lambda: nn.Linear(4, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    torch.manual_seed(0)
    product, out = PRODUCTS[name]
    net, x = Products(product, out()), torch.randn(3, 2, 3, 3)
    some_off(net, 0)
    assert verify(net, x, x).get_submodule("first").out_channels == int(net.gate.mode().sum()) < 4
