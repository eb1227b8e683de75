"""Attention within windows: torchvision's Swin transformers and MaxViT, tables of positions and einsum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.layers import gates_of
from tests.conversion.small import distance, images, switch_off

swin = pytest.importorskip("torchvision.models.swin_transformer")
SECOND = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}


def transformer(depths: list[int], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    heads = [4, 2][: len(depths)]
    model = swin.SwinTransformer([4, 4], 16, depths, heads, [4, 4], num_classes=5, **options).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    "options, depths, side",
    [
        pytest.param({}, [2], 40, id="first"),
        pytest.param({}, [1, 1], 32, marks=pytest.mark.slow, id="first, merged"),
        pytest.param(SECOND, [2], 32, id="second"),
        pytest.param(SECOND, [1, 1], 40, marks=pytest.mark.slow, id="second, merged"),
    ],
)
def test_heads_of_shifted_windows_go(options: Any, depths: list[int], side: int, tmp_path: Path) -> None:
    model, x = transformer(depths, **options), images(side)
    net = bp.convert(model, example_input=x)
    sizes = {name: gate.size for name, gate in gates_of(net).items()}
    assert [size for name, size in sizes.items() if "heads" in name] == ([4, 4] if depths == [2] else [4, 2])
    assert list(sizes.values()).count(1) == 4 and not any("cpb_mlp" in name for name in sizes)
    for other in (x, images(16), images(20)):  # windows of any number, moved or not
        assert distance(net(other), model(other)) < 1e-12
    with torch.no_grad():
        gates_of(net)["features.1.0.residual.body.attn.heads_gate"].theta[:] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    small = bp.compact(net, example_input=x)
    place = "features.1.0.residual.body.attn."
    shapes = {name.removeprefix(place): tuple(p.shape) for name, p in small.named_parameters()}
    assert shapes["qkv.weight"] == (3 * 8, 16) and shapes["proj.weight"] == (16, 8)
    if options:
        assert shapes["logit_scale"] == (2, 1, 1) and shapes["cpb_mlp.2.weight"] == (2, 512)
        assert shapes["qkv_bias"] == (3 * 8,)
    else:
        assert shapes["relative_position_bias_table"] == (49, 2)
    for other in (x, images(20)):
        assert distance(small(other), net(other)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))
    assert distance(small.float()(x.float()).double(), net(x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, SECOND], ids=["first", "second"])
def test_gradients_in_training_mode_are_those_of_the_model(options: Any) -> None:
    model, x = transformer([2], stochastic_depth_prob=0.0, **options).train(), images(16)
    net = bp.convert(model, example_input=x)
    for each in (model, net):
        each(x).square().sum().backward()
    own, found = dict(model.named_parameters()), 0
    for name, parameter in net.named_parameters():
        key = name.replace("residual2.body.", "").replace("residual.body.", "").replace("qkv_bias", "qkv.bias")
        if key in own:
            torch.testing.assert_close(parameter.grad, own[key].grad, rtol=1e-8, atol=1e-8)
            found += 1
    assert found == len(own)


@pytest.mark.slow
def test_heads_of_maxvit_go(tmp_path: Path) -> None:
    maxvit = pytest.importorskip("torchvision.models.maxvit")
    torch.manual_seed(0)
    model = maxvit.MaxVit((16, 16), 8, 2, [8], [1], head_dim=4, stochastic_depth_prob=0.1).double().eval()
    x = images(16)
    net = bp.convert(model, example_input=x)
    assert [gate.size for name, gate in gates_of(net).items() if "heads" in name] == [2, 2]
    assert distance(net(x), model(x)) < 1e-12
    assert not any(name.startswith("_tensor_constant") for name in vars(net))
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


class Summed(nn.Module):
    """Attention written with einsum: such letters for weights of places and for what they mix."""

    def __init__(self, weights: str, mixed: str, cosine: bool = False):
        super().__init__()
        self.weights, self.mixed, self.cosine = weights, mixed, cosine
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
        self.table, self.out = nn.Parameter(torch.randn(5, 3)), nn.Linear(12, 12)
        self.register_buffer("places", torch.arange(16).view(4, 4) % 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (3, 4)) for layer in (self.q, self.k, self.v))  # (B, T, heads, features)
        if self.cosine:
            q, k = F.normalize(q, dim=-1), F.normalize(k, p=1.0, dim=-1)
        weights = (torch.einsum(self.weights, q, k) + self.table[self.places].permute(2, 0, 1)).softmax(-1)
        return self.out(torch.einsum(self.mixed, weights, v.transpose(1, 2)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("cosine", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_heads_of_attention_by_einsum_go(cosine: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    net = bp.convert(Summed("bqhd, bkhd -> bhqk", "bhqk,bhkd->bhqd", cosine).double(), example_input=x)
    gate = gates_of(net)["heads_gate"]
    assert gate.size == 3
    with torch.no_grad():
        gate.theta[1] = 0.0
    small = bp.compact(net, example_input=x)
    assert small.q.out_features == small.v.out_features == 8 and small.table.shape == (5, 2)
    assert distance(small(x), net(x)) < 1e-12


class Folded(nn.Module):
    """Attention and units within windows that share the first dimension with the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 8)
        self.qkv, self.last, self.head = nn.Linear(6, 18), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = x.reshape(batch * 3, 2, 6)
        x = self.attention(x, x, x)[0]
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = self.last(torch.relu(self.mlp(x.transpose(1, 2).flatten(2))))
        return self.head(x.reshape(batch, 6, 6).mean(1))


def test_heads_within_windows_of_all_examples_have_one_draw_a_batch_and_units_none() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 6, 6), torch.randint(3, (10,))
    net = bp.convert(Folded(), example_input=x[:1])
    assert {name: (gate.size, gate.per_batch) for name, gate in gates_of(net).items()} == {
        "attention.gate": (2, True),
        "heads_gate": (3, True),
    }
    bnn = bp.BayesianNet(net, num_data=10, example_input=x[:1])
    xi = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]]).expand(4, -1)  # 4 does not divide the 30 windows
    single = torch.cat([bnn(each, xi[:1]) for each in x.split(1)])
    torch.testing.assert_close(bnn(x, xi), single)
    bp.fit(bnn, DataLoader(TensorDataset(x, y), batch_size=5), epochs=2)
    bnn.eval()
    torch.testing.assert_close(bp.compact(bnn)(x), bnn.gated_network()(x))


@pytest.mark.parametrize(
    "weights, mixed", [("...qhd,...khd->...hqk", "bhqk,bhkd->bhqd"), ("bqhd,bkhd->bhqk", "...hqk,...hkd->...hqd")]
)
def test_other_einsums_are_walls(weights: str, mixed: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    net = bp.convert(Summed(weights, mixed).double(), example_input=x)
    with torch.no_grad():
        gates_of(net)["heads_gate"].theta[1] = 0.0  # of what mixes them, the map behind is cut alone
    small = bp.compact(net, example_input=x)
    assert small.q.out_features == small.k.out_features == 12 and small.out.in_features == 8
    assert distance(small(x), net(x)) < 1e-12
