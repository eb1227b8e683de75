"""Heads of attention that get gates: torch's module, and attention that is written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.layers import gates_of
from tests.conversion.small import distance, images, switch_off


class Written(nn.Module):
    """Attention with one map for queries, keys and values, in one step or in several."""

    def __init__(self, size: int, heads: int, fused: bool):
        super().__init__()
        self.heads, self.fused, self.drop = heads, fused, nn.Dropout(0.1)
        self.qkv, self.proj = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = self.drop((q * 0.5 @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, length, size))


class Torchs(nn.Module):
    """Torch's attention, with such arguments and to another sequence if that is given."""

    def __init__(self, size: int, heads: int, **given: Any):
        super().__init__()
        self.attention, self.given = nn.MultiheadAttention(size, heads, dropout=0.1, batch_first=True), given

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        other = x if other is None else other
        return self.attention(x, other, other, **self.given)[0]


class Transformer(nn.Module):
    """A small one for images of 8 x 8."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.patches, self.norm, self.attention = nn.Conv2d(3, 12, 2, 2), nn.LayerNorm(12), attention
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x))
        return self.head((x + self.mlp(x)).mean(1))


@pytest.mark.parametrize("fused", [True, False])
def test_heads_of_written_attention_go(fused: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Transformer(Written(12, 4, fused)).double().eval(), images()
    net = bp.convert(model, example_input=x)
    assert {name: gate.size for name, gate in gates_of(net).items() if gate.size > 1} == {
        "residual.body.attention.heads_gate": 4,
        "mlp.residual.body.1_gate": 20,
    }
    assert distance(net(x), model(x)) < 1e-12
    gate = gates_of(net)["residual.body.attention.heads_gate"]
    with torch.no_grad():
        gate.theta[:] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("residual.body.attention.qkv").out_features == 3 * 2 * 3
    assert small.get_submodule("residual.body.attention.proj").in_features == 2 * 3
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


@pytest.mark.parametrize("given", [{}, {"need_weights": False}, {"attn_mask": None, "key_padding_mask": None}])
def test_heads_of_torchs_attention_go(given: Any) -> None:
    torch.manual_seed(0)
    model, x = Transformer(Torchs(12, 4, **given)).double().eval(), images()
    net = bp.convert(model, example_input=x)
    gate = gates_of(net)["residual.body.attention.attention.gate"]
    assert distance(net(x), model(x)) < 1e-12
    with torch.no_grad():
        gate.theta[1] = 0.0
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("residual.body.attention.attention.out_proj").in_features == 3 * 3
    assert distance(small(x), net(x)) < 1e-12
    net.train()  # its dropout follows the network's mode
    assert distance(net(x), net(x)) > 0


def test_heads_of_attention_to_another_sequence_go() -> None:
    torch.manual_seed(0)
    model, x = Torchs(12, 4).double().eval(), (torch.randn(2, 3, 12).double(), torch.randn(2, 5, 12).double())
    net = bp.convert(model, example_input=x)
    assert isinstance(net.get_submodule("attention"), layers.MultiheadAttention)
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(*x), net(*x)) < 1e-12


def test_attention_that_stays_torchs() -> None:
    class Weighted(Torchs):
        def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
            y, weights = self.attention(x, x, x)
            return y * weights.sum((1, 2))[:, None, None]

    for attention, options in [(Weighted(12, 4), {}), (Torchs(12, 4), {"heads": False})]:
        net = bp.convert(Transformer(attention).double().eval(), example_input=images(), **options)
        assert isinstance(net.get_submodule("residual.body.attention.attention"), nn.MultiheadAttention)
    assert len(gates_of(bp.convert(Transformer(Torchs(12, 4)), example_input=images().float(), only=["mlp"]))) == 2


def test_structures_tell_heads_from_units() -> None:
    model, x = Transformer(Written(12, 4, True)).double(), images()
    table = bp.structures(bp.convert(model, example_input=x), example_input=x)
    rows = {row.kind: row for row in table if row.kind != "none"}
    assert rows["head"].size == 4 and rows["head"].share + rows["unit"].share == pytest.approx(table.within)
    assert table.within < table.share < 1


def test_a_vision_transformer_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.VisionTransformer(32, 16, 2, 4, 24, 48, num_classes=5).double().eval()
    nn.init.normal_(model.heads.head.weight)
    x = images(32)
    net = bp.convert(model, example_input=x)
    assert sorted(gate.size for gate in gates_of(net).values()) == [1, 1, 1, 1, 4, 4, 48, 48]
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-9
    assert [row.kind for row in bp.structures(net, example_input=x)].count("head") == 2


class Groups(nn.Module):
    """Attention in which two heads of queries share one of keys and values, in one of its spellings."""

    def __init__(self, spelling: str, keys: int = 2):
        super().__init__()
        self.spelling, self.keys = spelling, keys
        self.q, self.k, self.v, self.out = (nn.Linear(12, size) for size in (12, 3 * keys, 3 * keys, 12))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, 4, 3).transpose(1, 2)
        k, v = (each(x).view(batch, length, self.keys, 3).transpose(1, 2) for each in (self.k, self.v))
        if self.spelling == "argument":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            times = 4 // self.keys
            if self.spelling == "repeat":
                k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, 1)
            else:
                size = (batch, self.keys, times, length, 3)
                k, v = (z[:, :, None].expand(size).reshape(batch, 4, length, 3) for z in (k, v))
            y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, 12))


@pytest.mark.parametrize("spelling", ["argument", "repeat", pytest.param("expand", marks=pytest.mark.slow)])
def test_a_group_of_queries_goes_with_its_keys(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Transformer(Groups(spelling)).double().eval(), images()
    net = bp.convert(model, example_input=x)
    gate = gates_of(net)["residual.body.attention.heads_gate"]
    assert gate.size == 2 and distance(net(x), model(x)) < 1e-12
    assert sum(row.kind == "head" for row in bp.structures(net, example_input=x)) == 1
    with torch.no_grad():
        gate.theta[0] = 0.0
    small = bp.compact(net, example_input=x)
    rows = [small.get_submodule(f"residual.body.attention.{name}").out_features for name in "qkv"]
    assert rows == [6, 3, 3] and distance(small(x), net(x)) < 1e-12


@pytest.mark.parametrize("spelling", ["argument", pytest.param("expand", marks=pytest.mark.slow)])
def test_keys_of_all_queries_stay_exact(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Transformer(Groups(spelling, keys=1)).double().eval(), images()
    net = bp.convert(model, example_input=x)
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12


class Apart(nn.Module):
    """Attention whose every head has queries, keys and values of several sizes behind one another."""

    def __init__(self, spelling: str):
        super().__init__()
        self.spelling, self.qkv, self.proj = spelling, nn.Linear(12, 4 * 7), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        h = self.qkv(x).view(batch, length, 4, -1)
        if self.spelling == "split":
            q, k, v = h.split([2, 2, 3], dim=3)
        elif self.spelling == "tensor_split":
            q, k, v = h.tensor_split([2, 4], dim=-1)
        elif self.spelling == "narrow":
            q, k, v = h.narrow(-1, 0, 2), h.narrow(-1, 2, 2), h.narrow(-1, 4, 3)
        else:
            q, k, v = h[..., :2], h[..., 2:4], h[..., 4:]
        y = F.scaled_dot_product_attention(*(z.permute(0, 2, 1, 3) for z in (q, k, v)))
        return self.proj(y.transpose(1, 2).reshape(batch, length, 12))


@pytest.mark.parametrize("spelling", ["split", "tensor_split", "narrow", "slices"])
@pytest.mark.parametrize("sizes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_parts_of_heads_of_several_sizes(spelling: str, sizes: bool) -> None:
    torch.manual_seed(0)
    model, x = Apart(spelling).double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=sizes)
    gates = gates_of(net)
    assert sorted(gate.size for gate in gates.values()) == ([2, 3, 4] if sizes else [4])
    with torch.no_grad():
        gates["heads_gate"].theta[:] = torch.tensor([0.0, 1.0, 1.0, 0.0])
        if sizes:
            gates["keys_gate"].theta[0] = gates["values_gate"].theta[1] = 0.0
    small = bp.compact(net, example_input=x)
    key, value = (1, 2) if sizes else (2, 3)
    assert small.get_submodule("qkv").out_features == 2 * (2 * key + value)
    assert small.get_submodule("proj").in_features == 2 * value
    assert distance(small(x), net(x)) < 1e-12


class Shared(nn.Module):
    """Attention that is given one tensor for several of queries, keys and values, in one of its spellings."""

    def __init__(self, operands: str, spelling: str):
        super().__init__()
        self.operands, self.spelling = operands, spelling
        self.maps = nn.ModuleDict({name: nn.Linear(12, 12) for name in sorted(set(operands))})
        self.out = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        made = {name: each(x).unflatten(-1, (4, 3)).transpose(1, 2) for name, each in self.maps.items()}
        q, k, v = (made[name] for name in self.operands)
        if self.spelling == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.einsum("bhtd,bhsd->bhts", q, k).mul(0.5).softmax(-1).to(x.dtype) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("spelling", ["fused", "written"])
@pytest.mark.parametrize("operands", ["qqv", "qkk", "qkq", "qqq"])
def test_heads_of_attention_that_is_given_one_tensor_twice(operands: str, spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Shared(operands, spelling).double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x)
    assert {name: gate.size for name, gate in gates_of(net).items()} == {"heads_gate": 4}
    with torch.no_grad():
        net.get_submodule("heads_gate").theta[:] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    small = bp.compact(net, example_input=x)
    for name, layer in model.maps.items():
        left = layer.weight.view(4, 3, 12)[[1, 3]].flatten(0, 1)
        assert torch.equal(small.get_parameter(f"maps.{name}.weight"), left)
    assert small.get_submodule("out").in_features == 6 and distance(small(x), net(x)) < 1e-12
