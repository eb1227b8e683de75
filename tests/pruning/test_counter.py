"""Multiply-adds against counts by hand and against torch's own counter, and kernels that cannot be counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import cudnn, mha, mkldnn
from torch.utils.flop_counter import FlopCounterMode

from bayesprune.errors import TraceError
from bayesprune.layers import Residual
from bayesprune.pruning import compact, cost
from bayesprune.pruning.expected import ExpectedCost

SEQUENCE = (5, 16)


class Apply(nn.Module):
    """A function of the input and of parameters."""

    def __init__(self, function: Callable[..., Tensor], *sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(size)) for size in sizes])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


class SelfAttention(nn.Module):
    """torch's layer, on one tensor."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class WrittenOut(nn.Module):
    """Attention of four linear layers and scaled dot products."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Cell(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x[:, 0])
        return state[0] if isinstance(state, tuple) else state


HEADS = 4 * 5 * 5 * 4  # of one product of 4 heads on 5 tokens
ATTENTION = 4 * 5 * 16 * 16 + 2 * HEADS
BY_HAND = {
    "attention": (SelfAttention, ATTENTION),
    "attention without bias": (lambda: SelfAttention(bias=False), ATTENTION),
    "attention written out": (WrittenOut, ATTENTION),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), ATTENTION + 2 * 5 * 16 * 32),
    "LSTM": (lambda: nn.LSTM(16, 12, batch_first=True), 5 * 4 * 12 * (16 + 12)),
    "GRU": (lambda: nn.GRU(16, 12, batch_first=True), 5 * 3 * 12 * (16 + 12)),
    "RNN": (lambda: nn.RNN(16, 12, batch_first=True), 5 * 12 * (16 + 12)),
    "both ways": (lambda: nn.LSTM(16, 12, batch_first=True, bidirectional=True), 2 * 5 * 4 * 12 * (16 + 12)),
    "two layers": (lambda: nn.GRU(16, 12, 2, batch_first=True), 5 * 3 * 12 * (16 + 12 + 12 + 12)),
    "projected": (lambda: nn.LSTM(16, 12, batch_first=True, proj_size=7), 5 * (4 * 12 * (16 + 7) + 12 * 7)),
    "LSTM cell": (lambda: Cell(nn.LSTMCell(16, 12)), 4 * 12 * (16 + 12)),
    "GRU cell": (lambda: Cell(nn.GRUCell(16, 12)), 3 * 12 * (16 + 12)),
    "RNN cell": (lambda: Cell(nn.RNNCell(16, 12)), 12 * (16 + 12)),
    "einsum": (lambda: Apply(lambda x, w: torch.einsum("btf,fo->bto", x, w), (16, 3)), 5 * 16 * 3),
    "matmul": (lambda: Apply(torch.matmul, (16, 3)), 5 * 16 * 3),
    "matrix times vector": (lambda: Apply(lambda x, w: x @ w, (16,)), 5 * 16),
    "addmv": (lambda: Apply(lambda x, b, w: torch.addmv(b, x[0], w), (5,), (16,)), 5 * 16),
    "dot": (lambda: Apply(lambda x, w: torch.dot(x.flatten(), w), (80,)), 5 * 16),
    "bmm": (lambda: Apply(torch.bmm, (1, 16, 3)), 5 * 16 * 3),
    "baddbmm": (lambda: Apply(lambda x, b, w: torch.baddbmm(b, x, w), (1, 5, 3), (1, 16, 3)), 5 * 16 * 3),
    "addbmm": (lambda: Apply(lambda x, b, w: torch.addbmm(b, x, w), (5, 3), (1, 16, 3)), 5 * 16 * 3),
    "addmm": (lambda: Apply(lambda x, b, w: torch.addmm(b, x[0], w), (5, 3), (16, 3)), 5 * 16 * 3),
    "linear": (lambda: Apply(F.linear, (3, 16), (3,)), 5 * 16 * 3),
    "convolution": (lambda: Apply(lambda x, w: F.conv1d(x, w, padding=1), (4, 5, 3)), 16 * 4 * 5 * 3),
    "transposed": (lambda: Apply(F.conv_transpose1d, (5, 4, 3)), 16 * 4 * 5 * 3),
    "in groups": (lambda: nn.Conv1d(5, 10, 3, groups=5), 14 * 10 * 3),
    "bilinear": (lambda: Apply(lambda x, w: F.bilinear(x[..., :4], x[..., 4:8], w), (7, 4, 4)), 5 * 7 * 4 * 4),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    build, expected = BY_HAND[name]
    net, x = build().train(), torch.randn(3, *SEQUENCE)
    with torch.no_grad():
        assert cost(net, x).macs == expected
    assert net.training and mha.get_fastpath_enabled() and mkldnn.enabled and cudnn.enabled


@pytest.mark.parametrize("name", ["einsum", "matmul", "bmm", "linear", "convolution", "transposed", "in groups"])
def test_as_counted_by_torch(name: str) -> None:
    net, x = BY_HAND[name][0](), torch.randn(1, *SEQUENCE)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    assert cost(net, x).macs == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("function", "kernel"),
    [
        (lambda x: torch.cdist(x, x), "_cdist_forward"),
        (lambda x: torch.fft.rfft(x).real, "_fft_r2c"),
        (lambda x: torch.linalg.inv(x @ x.mT + torch.eye(5)), "linalg_inv_ex"),
        (lambda x: torch.linalg.svdvals(x), "_linalg_svd"),
    ],
)
def test_what_cannot_be_counted(function: Callable[[Tensor], Tensor], kernel: str) -> None:
    with pytest.raises(TraceError, match=f"^the multiply-adds of aten.{kernel} cannot be counted; leave"):
        cost(Apply(function), torch.randn(2, *SEQUENCE))
    assert cost(Apply(function)).macs is None


@pytest.mark.parametrize("attention", [SelfAttention, WrittenOut])
def test_branches_of_attention(attention: Callable[[], nn.Module]) -> None:
    """What two branches cost is expected to halve with one of them, so that a budget can ask for it."""
    net, x = nn.Sequential(Residual(attention()), Residual(attention())), torch.randn(2, *SEQUENCE)
    expected = ExpectedCost(net, x)
    assert expected.total["macs"] == cost(net, x).macs == 2 * ATTENTION
    theta = {"0": torch.tensor([0.5]), "1": torch.tensor([0.25])}
    assert float(expected(theta)["macs"]) == pytest.approx(0.75 * ATTENTION, rel=1e-12)
    with torch.no_grad():
        net[1].gate.theta.fill_(0)
    assert cost(net, x).macs == cost(compact(net), x).macs == ATTENTION
