"""Attention within windows: torchvision's Swin transformers and MaxViT, tables of positions and einsum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import gates_of
from tests.conversion.test_convert import distance, images, switch_off

swin = pytest.importorskip("torchvision.models.swin_transformer")
SECOND = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}


def transformer(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = swin.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **options).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("side", [32, 40], ids=["whole windows", "filled up"])
@pytest.mark.parametrize("options", [{}, SECOND], ids=["first", "second"])
def test_heads_of_shifted_windows_go(options: Any, side: int, tmp_path: Path) -> None:
    model, x = transformer(**options), images(side)
    net = bp.convert(model, example_input=x)
    sizes = {name: gate.size for name, gate in gates_of(net).items()}
    assert [size for name, size in sizes.items() if "heads" in name] == [2, 2, 4, 4]
    assert list(sizes.values()).count(1) == 8 and not any("cpb_mlp" in name for name in sizes)
    for other in (x, images(48), images(20)):  # windows of any number, moved or not
        assert distance(net(other), model(other)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


@pytest.mark.parametrize("options", [{}, SECOND], ids=["first", "second"])
def test_tables_of_positions_and_maps_are_cut_with_heads(options: Any) -> None:
    model, x = transformer(**options), images(32)
    net = bp.convert(model, branches=False, example_input=x)
    with torch.no_grad():
        gates_of(net)["features.3.1.attn.heads_gate"].theta[:] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    small = bp.compact(net, example_input=x)
    attention = small.get_submodule("features.3.1.attn")
    assert (attention.qkv.out_features, attention.proj.in_features) == (3 * 16, 16)
    if options:
        assert attention.logit_scale.shape == (2, 1, 1) and attention.cpb_mlp[2].out_features == 2
        assert attention.qkv_bias.shape == (3 * 16,)
    else:
        assert attention.relative_position_bias_table.shape == (49, 2)
    assert distance(small(x), net(x)) < 1e-12


@pytest.mark.parametrize("options", [{}, SECOND], ids=["first", "second"])
def test_a_step_in_training_mode_is_that_of_the_model(options: Any) -> None:
    model, x = transformer(stochastic_depth_prob=0.0, **options), images(32)
    net = bp.convert(model, example_input=x)
    for each in (model, net):
        each(x).square().sum().backward()
    own = dict(model.named_parameters())
    for name, parameter in net.named_parameters():
        key = name.replace("residual2.body.", "").replace("residual.body.", "").replace("qkv_bias", "qkv.bias")
        if key in own:
            torch.testing.assert_close(parameter.grad, own[key].grad, rtol=1e-8, atol=1e-8)


def test_heads_of_maxvit_go(tmp_path: Path) -> None:
    maxvit = pytest.importorskip("torchvision.models.maxvit")
    torch.manual_seed(0)
    model = maxvit.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], head_dim=4, stochastic_depth_prob=0.1).double().eval()
    x = images(32)
    net = bp.convert(model, example_input=x)
    assert [gate.size for name, gate in gates_of(net).items() if "heads" in name] == [2, 2, 4, 4]
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


@pytest.mark.parametrize("cosine", [False, True])
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


@pytest.mark.parametrize(
    "weights, mixed", [("...qhd,...khd->...hqk", "bhqk,bhkd->bhqd"), ("bqhd,bkhd->bhqk", "bhqk,bhkd->bhqd->")]
)
def test_other_einsums_are_walls(weights: str, mixed: str) -> None:
    from bayesprune.errors import BayesPruneError

    x = torch.randn(2, 4, 12, dtype=torch.float64)
    model = nn.Sequential(
        Summed(weights, mixed).double(), nn.Linear(12, 6).double(), nn.ReLU(), nn.Linear(6, 2).double()
    )
    try:
        net = bp.convert(model, example_input=x)
    except BayesPruneError:
        return
    assert set(gates_of(net)) == {"1_gate"}
