"""Features of keys and of values within heads, which all heads of an attention lose alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import gates_of
from bayesprune.pruning import ExpectedCost
from tests.conversion.small import distance, images, switch_off
from tests.conversion.test_heads import Groups, Shared, Torchs, Transformer, Written


def off(net: nn.Module, name: str, *values: float) -> None:
    with torch.no_grad():
        gates_of(net)[name].theta[:] = torch.tensor(values)


def sizes_of(net: nn.Module) -> dict[str, int]:
    named = gates_of(net).items()
    return {name.rpartition(".")[2].partition("_")[0]: gate.size for name, gate in named if gate.within}


@pytest.mark.parametrize("fused", [True, False])
def test_keys_and_values_of_one_layer_get_different_sizes(fused: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Written(12, 3, fused).double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert sizes_of(net) == {"keys": 4, "values": 4}
    assert distance(net(x), model(x)) < 1e-12
    off(net, "keys_gate", 1.0, 0.0, 0.0, 0.0)
    off(net, "values_gate", 1.0, 0.0, 1.0, 1.0)
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("qkv").out_features == 3 * (1 + 1 + 3)
    assert small.get_submodule("proj").in_features == 3 * 3
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


def test_the_weights_that_are_left_are_those_of_the_indices_that_are_on() -> None:
    torch.manual_seed(0)
    model, x = Torchs(12, 4).double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    off(net, "attention.keys_gate", 0.0, 1.0, 1.0)
    off(net, "attention.values_gate", 1.0, 1.0, 0.0)
    off(net, "attention.heads_gate", 1.0, 1.0, 0.0, 1.0)
    small = bp.compact(net, example_input=x)
    q, k, v = (model.attention.in_proj_weight.view(3, 4, 3, 12)[part, [0, 1, 3]] for part in range(3))
    for name, weight in (("q_proj", q[:, 1:]), ("k_proj", k[:, 1:]), ("v_proj", v[:, :2])):
        assert torch.equal(small.get_parameter(f"attention.{name}.weight"), weight.flatten(0, 1))
    assert distance(small(x), net(x)) < 1e-12
    queries, keys, values = (torch.einsum("btc,hdc->bhtd", x, weight) for weight in (q[:, 1:], k[:, 1:], v[:, :2]))
    mixed = (queries @ keys.mT / 3**0.5).softmax(-1) @ values  # the scale stays that of three features
    out = model.attention.out_proj.weight.view(12, 4, 3)[:, [0, 1, 3], :2]
    assert distance(small(x), torch.einsum("bhtd,chd->btc", mixed, out)) < 1e-12


@pytest.mark.parametrize(
    ("given", "masked"),
    [({}, False), pytest.param({"need_weights": False}, True, marks=pytest.mark.slow)],
)
def test_torchs_attention_with_dropout_and_a_mask(given: Any, masked: bool) -> None:
    torch.manual_seed(0)
    mask = torch.ones(16, 16, dtype=torch.bool).triu(1) if masked else None
    model, x = Transformer(Torchs(12, 4, attn_mask=mask, **given)).double().eval(), images()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert distance(net(x), model(x)) < 1e-12
    off(net, "residual.body.attention.attention.keys_gate", 0.0, 1.0, 0.0)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12
    net.train()  # its dropout follows the network's mode
    assert distance(net(x), net(x)) > 0


@pytest.mark.parametrize("spelling", ["argument", pytest.param("repeat", marks=pytest.mark.slow)])
def test_keys_that_groups_of_queries_share(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Transformer(Groups(spelling)).double().eval(), images()
    net = bp.convert(model, example_input=x, head_sizes=True)
    off(net, "residual.body.attention.keys_gate", 1.0, 0.0, 1.0)
    off(net, "residual.body.attention.values_gate", 0.0, 0.0, 1.0)
    off(net, "residual.body.attention.heads_gate", 1.0, 0.0)
    small = bp.compact(net, example_input=x)
    rows = [small.get_submodule(f"residual.body.attention.{name}").out_features for name in "qkv"]
    assert rows == [2 * 2, 2, 1] and distance(small(x), net(x)) < 1e-12


class Scaled(nn.Module):
    """Attention of four heads of three features each, in one of its spellings."""

    def __init__(self, spelling: str):
        super().__init__()
        self.spelling = spelling
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (each(x).view(batch, length, 4, 3).transpose(1, 2) for each in (self.q, self.k, self.v))
        if self.spelling == "einsum":
            weights = (0.5 * torch.einsum("bhid,bhjd->bhij", q, k)).softmax(-1)
            y = torch.einsum("bhij,bhjd->bhid", weights, v)
        elif self.spelling == "normalised":
            y = F.scaled_dot_product_attention(self.norm(q), self.norm(k), v)
        else:
            y = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Rotated(nn.Module):
    """Attention of two heads whose queries and keys are turned by an angle for each place, two features at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, size) for size in (8, 8, 6, 12))
        self.out = nn.Linear(6, 12)
        angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1])).repeat(1, 2)
        self.cos, self.sin = nn.Buffer(angles.cos()), nn.Buffer(angles.sin())

    def turned(self, x: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (2, -1)).transpose(1, 2).chunk(2, -1)
        x = torch.cat([first, second], -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x).unflatten(-1, (2, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(self.turned(self.q(x)), self.turned(self.k(x)), v)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.slow
def test_features_that_are_turned_together_go_together() -> None:
    torch.manual_seed(0)
    model, x = Rotated().double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    off(net, "keys_gate", 0.0, 1.0, 0.0, 0.0)  # the first and the third are a pair
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12


@pytest.mark.parametrize("spelling", ["einsum", "of the size"])
def test_spellings_of_attention(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Scaled(spelling).double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert sizes_of(net) == {"keys": 3, "values": 3}
    off(net, "keys_gate", 1.0, 0.0, 1.0)
    off(net, "values_gate", 0.0, 1.0, 0.0)
    small = bp.compact(net, example_input=x)
    assert [small.get_submodule(name).out_features for name in "qkv"] == [8, 8, 4]
    assert distance(small(x), net(x)) < 1e-12


class Spelled(nn.Module):
    """Attention of two heads, whose mixing is given."""

    def __init__(self, mix: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.mix = mix
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        return self.out(self.mix(q, k, v).transpose(1, 2).flatten(2))


def of_length(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    turned = k.transpose(-2, -1)
    return (q @ turned / turned.shape[-1]).softmax(-1) @ v


def of_length_and_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    turned = k.mT
    return (q @ turned / (turned.shape[-1] * turned.shape[-2])).softmax(-1) @ v


@pytest.mark.parametrize("mix", [of_length, of_length_and_size])
@pytest.mark.parametrize("length", [4, pytest.param(5, marks=pytest.mark.slow)])  # heads have four features, too
def test_a_length_that_keys_are_asked_for_stays_that_of_the_inputs(mix: Any, length: int) -> None:
    torch.manual_seed(0)
    model, x = Spelled(mix).double().eval(), torch.randn(2, length, 8).double()
    longer = torch.randn(2, 7, 8).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert distance(net(longer), model(longer)) < 1e-12
    off(net, "keys_gate", 1.0, 0.0, 1.0, 0.0)
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("k").out_features == 4 and distance(small(longer), net(longer)) < 1e-12


@pytest.mark.parametrize(
    ("mix", "kinds"),
    [
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.0), {"keys", "values"}),
        (lambda q, k, v: torch.einsum("abij,abkj", q, k).softmax(-1) @ v, {"values"}),
        (lambda q, k, v: torch.einsum("bhid,bhjd,h->bhij", q, k, torch.ones(2).to(q)).softmax(-1) @ v, {"values"}),
        (lambda q, k, v: torch.einsum("...id,...jd->...ij", q, k).softmax(-1) @ v, {"values"}),
    ],
)
def test_spellings_that_tell_little(mix: Any, kinds: set[str]) -> None:
    torch.manual_seed(0)
    model, x = Spelled(mix).double().eval(), torch.randn(2, 5, 8).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert sizes_of(net).keys() == kinds and distance(net(x), model(x)) < 1e-12
    for name in kinds:
        off(net, f"{name}_gate", 1.0, 0.0, 1.0, 0.0)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12


def test_what_is_made_and_not_used_keeps_a_size_that_its_views_can_do_with() -> None:
    torch.manual_seed(0)
    model = Spelled(lambda q, k, v: F.scaled_dot_product_attention(q, q, v)).double().eval()
    x = torch.randn(2, 5, 8).double()
    net = bp.convert(model, example_input=x, head_sizes=True)  # nothing reads the view of k
    off(net, "values_gate", 1.0, 0.0, 0.0, 1.0)
    small = bp.compact(net, example_input=x)
    assert small.get_submodule("out").in_features == 4 and distance(small(x), net(x)) < 1e-12


def test_features_that_a_norm_mixes_are_left_and_the_table_says_why() -> None:
    model, x = Scaled("normalised").double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert sizes_of(net) == {"values": 3}
    rows = {row.gate: row for row in bp.structures(net, example_input=x)}
    assert rows["values_gate"].kind == "size" and rows["values_gate"].size == 3
    left = rows["scaled_dot_product_attention: keys"]
    assert (left.kind, left.size) == ("none", 3) and left.rules


def test_what_they_rule_and_are_expected_to_cost() -> None:
    torch.manual_seed(0)
    model, x = Torchs(12, 3).double().eval(), torch.randn(1, 5, 12).double()
    net = bp.convert(model, example_input=x, heads=False, head_sizes=True)
    table = {row.gate: row.share for row in bp.structures(net, example_input=x)}
    assert table["attention.keys_gate"] == table["attention.values_gate"] == pytest.approx(2 / 4, rel=0.2)
    gates = gates_of(net)
    assert {name: gate.size for name, gate in gates.items()} == {"attention.keys_gate": 4, "attention.values_gate": 4}
    expected = ExpectedCost(net, x, ("params",))
    on = {name: torch.tensor([1.0, 1.0, 0.25, 1.0], dtype=torch.float64) for name in gates}
    off(net, "attention.keys_gate", 1.0, 1.0, 0.0, 1.0)
    keys = bp.cost(bp.compact(net, example_input=x), x).params
    off(net, "attention.values_gate", 1.0, 1.0, 0.0, 1.0)
    both = bp.cost(bp.compact(net, example_input=x), x).params
    assert keys == expected.total["params"] - 2 * 3 * 13 and both == keys - 3 * 13 - 3 * 12
    gone = expected.total["params"] - both
    assert float(expected(on)["params"]) == pytest.approx(expected.total["params"] - 0.75 * gone, rel=1e-12)


@pytest.mark.slow
def test_exported(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model, x = Transformer(Written(12, 4, True)).eval(), images().float()
    net = bp.convert(model, example_input=x, head_sizes=True)
    off(net, "residual.body.attention.keys_gate", 1.0, 0.0, 1.0)
    small = bp.compact(net, example_input=x)
    bp.pruning.export_onnx(small, x, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    more = torch.cat([x, -x[:1]])
    (found,) = session.run(None, {"input": more.numpy()})
    assert distance(torch.from_numpy(found), small(more)) < 1e-5


@pytest.mark.slow
def test_vision_transformers() -> None:
    models, timm = pytest.importorskip("torchvision.models"), pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = models.VisionTransformer(32, 16, 2, 4, 24, 48, num_classes=5).double().eval()
    nn.init.normal_(ours.heads.head.weight)
    tiny = {"img_size": 32, "embed_dim": 24, "num_heads": 4, "depth": 2, "num_classes": 5}
    theirs = timm.create_model("vit_tiny_patch16_224", **tiny).double().eval()
    for model in (ours, theirs):
        x = images(32)
        net = bp.convert(model, example_input=x, head_sizes=True)
        assert sorted(gate.size for gate in gates_of(net).values() if gate.within) == [6, 6, 6, 6]
        switch_off(net)
        with torch.no_grad():
            for gate in gates_of(net).values():
                gate.theta[0] = 1.0  # branches stay
        assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-9


@pytest.mark.parametrize("spelling", ["fused", "written"])
@pytest.mark.parametrize("operands, key, value", [("qqv", "q", "v"), ("qkk", "", ""), ("qkq", "qk", "")])
def test_one_tensor_for_two_of_queries_keys_and_values(operands: str, key: str, value: str, spelling: str) -> None:
    """A feature of a tensor that is keys and values goes where both gates are off, or where queries go with it."""
    torch.manual_seed(0)
    model, x = Shared(operands, spelling).double().eval(), torch.randn(2, 5, 12).double()
    net = bp.convert(model, example_input=x, head_sizes=True)
    assert sizes_of(net) == {"keys": 3, "values": 3}
    for name, shrinking in (("keys_gate", key), ("values_gate", value), ("both", set(operands))):
        for each in ("keys_gate", "values_gate"):
            off(net, each, *((0.0, 1.0, 1.0) if name in (each, "both") else (1.0, 1.0, 1.0)))
        small = bp.compact(net, example_input=x)
        rows = {each: small.get_submodule(f"maps.{each}").out_features for each in model.maps}
        assert rows == {each: 8 if each in shrinking else 12 for each in model.maps}
        assert distance(small(x), net(x)) < 1e-12
