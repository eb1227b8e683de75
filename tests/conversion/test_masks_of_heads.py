"""Masks and biases that have a part for each head of attention: they are cut with the heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off

HEADS, STEPS, SIZE = 4, 6, 12
CUT = {  # by what is added to scores: the table that is cut with heads, and the dimension
    "table": ("bias", 0),
    "part of a table": ("bias", 0),
    "table, masked": ("bias", 0),
    "slopes": ("slopes", 0),
    "numbers": ("constant", 1),
    "embedding": ("table.weight", 1),
}


class Biased(nn.Module):
    """Attention with something for each head added to its scores, written out or in one function, or torch's."""

    def __init__(self, what: str, way: str):
        super().__init__()
        self.what, self.way = what, way
        self.q, self.k, self.v, self.out = (nn.Linear(SIZE, SIZE) for _ in range(4))
        self.bias, self.table = nn.Parameter(torch.randn(HEADS, STEPS, STEPS)), nn.Embedding(11, HEADS)
        self.register_buffer("slopes", torch.randn(HEADS, 1, 1))
        self.register_buffer("far", torch.arange(STEPS)[:, None] - torch.arange(STEPS) + 5)
        self.register_buffer("causal", torch.ones(STEPS, STEPS).tril().bool())
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)

    def added(self, steps: int) -> Tensor:
        if self.what == "table":
            return self.bias
        if self.what == "part of a table":
            return self.bias[:, :steps, :steps].unsqueeze(0)
        if self.what == "table, masked":
            return self.bias.masked_fill(~self.causal, float("-inf"))
        if self.what == "embedding":  # the biases of T5 (Raffel et al. 2020)
            return self.table(self.far).permute(2, 0, 1)[None]
        far = (torch.arange(steps)[None] - torch.arange(steps)[:, None]).abs().double()
        if self.what == "slopes":  # ALiBi (Press et al. 2022)
            return -self.slopes * far
        return torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64).view(1, HEADS, 1, 1) * far

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        if self.way == "torch":
            return self.attention(x, x, x, attn_mask=self.bias.repeat(batch, 1, 1), need_weights=False)[0]
        q, k, v = (f(x).view(batch, steps, HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.way == "function":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.added(steps))
        else:
            y = (q @ k.transpose(-2, -1) / 2 + self.added(steps)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, steps, SIZE))


class Net(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.last = inner, nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x).mean(1))


def converted(what: str, way: str, gate: str, cut: str) -> tuple[Any, Tensor]:
    """A network with two of four heads left, which it is checked to be without them."""
    torch.manual_seed(0)
    model, x = Net(Biased(what, way)).double().eval(), torch.randn(3, STEPS, SIZE).double()
    net = bp.convert(model, example_input=x)
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    with torch.no_grad():
        gates_of(net)[gate].theta[:] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    small = bp.compact(net, example_input=x)
    rows = [small.get_submodule(cut.format(name)).out_features for name in "qkv"]
    assert rows == [SIZE // 2] * 3 and distance(small(x), net(x)) < 1e-12
    return small, x


@pytest.mark.parametrize(
    "what, way",
    [
        pytest.param(what, way, marks=pytest.mark.slow if way == "written" and what != "slopes" else ())
        for what in CUT
        for way in ("written", "function")
        if (what, way) != ("table, masked", "written")
    ],
)
def test_biases_of_heads_are_cut(what: str, way: str, tmp_path: Path) -> None:
    small, x = converted(what, way, "inner.heads_gate", "inner.{}")
    name, dim = CUT[what]
    assert dict(small.state_dict())[f"inner.{name}"].shape[dim] == 2
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


def test_a_mask_of_each_head_of_torchs_attention_is_cut() -> None:
    small, _ = converted("", "torch", "inner.attention.gate", "inner.attention.{}_proj")
    assert small.get_parameter("inner.bias").shape == (2, STEPS, STEPS)


def test_a_mask_that_is_given_holds_queries_and_keys() -> None:
    class Masked(Biased):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            q, k, v = (f(x).view(len(x), -1, HEADS, 3).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.out(y.transpose(1, 2).reshape(len(x), -1, SIZE))

    torch.manual_seed(0)
    x = torch.randn(2, STEPS, SIZE).double(), torch.randn(2, HEADS, STEPS, STEPS).double()
    net = bp.convert(Masked("", "").double().eval(), example_input=x)
    switch_off(net, share=0.5)
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("q").out_features == SIZE > small.get_submodule("out").in_features
    assert distance(small(*x), net(*x)) < 1e-12
