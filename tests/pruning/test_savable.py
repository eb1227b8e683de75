"""What can be trained can be saved, or it is known beforehand that it cannot."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.ops import StochasticDepth

from bayesprune import layers
from bayesprune.errors import TraceError
from bayesprune.infer import BayesianNet
from bayesprune.pruning import compact, load, save, unsavable
from tests.pruning.forge import verify_code
from tests.pruning.verify import draw_thetas


class Recurrent(nn.Module):
    """A gated network whose head reads all that a recurrent layer gives."""

    def __init__(self, layer: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.features = layer(6, 5, batch_first=True, **options)
        self.head = nn.Sequential(layers.Linear(5, 8, gate="unit"), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        steps, last = self.features(x)
        state = last[0] if isinstance(self.features, nn.LSTM) else last
        return self.head(steps[:, -1] + state[-1])


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(3))
        self.embed = nn.Embedding(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.depth = StochasticDepth(0.3, "row")
        self.head = nn.Sequential(nn.Flatten(), layers.Linear(24, 8, gate="unit"), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.embed(self.places.to(x.device))
        return self.head(x + self.depth(self.attention(x, x, x, need_weights=False)[0]))


def shuffled() -> nn.Module:
    return nn.Sequential(
        layers.Conv2d(1, 6, 3, gate="unit"), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.PixelShuffle(2), nn.ZeroPad2d(1),
        nn.ChannelShuffle(2), nn.Upsample(scale_factor=2.0, recompute_scale_factor=True), nn.Flatten(),
        nn.LazyLinear(3),
    )  # fmt: skip


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu", batch_first=True, norm_first=True)
    return nn.Sequential(layer, nn.Flatten(), layers.Linear(24, 8, gate="unit"), nn.ReLU(), nn.Linear(8, 3))


def hyphens() -> nn.Module:
    net = nn.Sequential()
    net.add_module("block1-0", nn.Sequential())
    net[0].add_module("a b", layers.Linear(6, 8, gate="unit"))
    net.add_module("_größe", nn.ReLU())
    net.add_module("norm", nn.Linear(8, 3))
    return net


GATED = {
    "LSTM": (lambda: Recurrent(nn.LSTM), (4, 6)),
    "LSTM of two layers": (lambda: Recurrent(nn.LSTM, num_layers=2, bias=False, dropout=0.1), (4, 6)),
    "GRU": (lambda: Recurrent(nn.GRU), (4, 6)),
    "RNN": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), (4, 6)),
    "MultiheadAttention and StochasticDepth": (Attention, (3, 8)),
    "MultiheadAttention with bias of keys": (lambda: Attention(add_bias_kv=True, bias=False), (3, 8)),
    "TransformerEncoderLayer": (encoder, (3, 8)),
    "PixelShuffle": (shuffled, (1, 8, 8)),
    "hyphens": (hyphens, (6,)),
}


@pytest.mark.parametrize("case", GATED)
def test_a_network_that_can_be_trained_can_be_saved(case: str, tmp_path: Path) -> None:
    build, shape = GATED[case]
    net, x = build().eval(), torch.randn(3, *shape)
    net(x)  # gives lazy layers their size
    bnn = BayesianNet(net, num_data=10)
    draw_thetas(net, 1)
    state, theta = torch.get_rng_state(), bnn.theta.clone()
    assert unsavable(bnn) is None
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(theta, bnn.theta)
    small = compact(bnn).eval()
    save(small, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert all(m.training == small.get_submodule(name).training for name, m in again.named_modules())
    verify_code(again)


class Outputs(nn.Module):
    """Several inputs and outputs, a dictionary, spellings of the same thing, infinite bounds, dtypes, sizes."""

    def forward(self, x: Tensor, data: Tensor, self_loop: bool = True) -> dict[str, Any]:
        rows, columns = x.shape[0], x.size(1)
        high = x.max(2)[0] + x.max(dim=2).values + torch.max(x, data).amax(2) * 3
        low = torch.clamp(x, max=float("inf")).to(torch.float64).reshape(x.shape[:1] + (columns * 6 // 2, 2))  # noqa: RUF005
        parts = x.chunk(2, -1)
        return {"high": high * rows, "low": (low, [parts[0] - parts[1]]), "x-y": torch.where(x > data, x, data) ** 2}


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in (value.values() if isinstance(value, dict) else value) for tensor in flat(part)]


def test_outputs_of_any_form(tmp_path: Path) -> None:
    net, (x, data) = Outputs(), torch.randn(2, 3, 4, 6)
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    first, second = net(x, data), again(x, data=data)
    assert list(first) == list(second) and isinstance(second["low"], tuple)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(flat(first), flat(second), strict=True))
    verify_code(again)


def test_regnet(tmp_path: Path) -> None:
    params = BlockParams.from_init_params(depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=8, se_ratio=0.25)
    net, x = RegNet(params, num_classes=3, stem_width=8).eval(), torch.randn(2, 3, 32, 32)
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert any("-" in name for name in again.state_dict()) and set(again.state_dict()) == set(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def named(name: str) -> nn.Module:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU())
    net.add_module(name, nn.Linear(4, 2))
    return net


def test_what_cannot_be_saved_is_known_before_training() -> None:
    foreign = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2), nn.SyncBatchNorm(2))
    assert unsavable(foreign) == (
        "a model file cannot hold 3 (SyncBatchNorm); replace them by standard torch.nn layers, or use torch.save or "
        "torch.export"
    )
    hooked = nn.Sequential(nn.Linear(3, 2))
    hooked[0].register_forward_hook(lambda module, inputs, output: output + 1)
    assert "a forward hook" in str(unsavable(hooked))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert "weight normalisation" in str(unsavable(nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))))
    assert "parametrisation of weight" in str(
        unsavable(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))))
    )
    assert unsavable(nn.Sequential(nn.Linear(3, 2))) is None


@pytest.mark.parametrize("name", ["code", "graph", "meta", "to_folder"])
def test_names_that_torch_fx_has_taken_are_refused_when_the_model_is_built(name: str) -> None:
    with pytest.raises(TraceError, match=f"is called '{name}', as something of torch.fx is; rename it"):
        BayesianNet(named(name), num_data=5)


@pytest.mark.parametrize("name", ['a"b', "a\\", "a\nb", "__a", "ﬁ"])
def test_names_that_code_cannot_hold_are_refused_when_the_model_is_built(name: str) -> None:
    with pytest.raises(TraceError, match=r"a part of the network is called .*; rename it with letters"):
        BayesianNet(named(name), num_data=5)


def test_a_vision_transformer(tmp_path: Path) -> None:
    """Its forward pass asserts shapes, which is no part of what a model file holds."""
    net = VisionTransformer(image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12).eval()
    save(net, tmp_path / "net.safetensors")
    x = torch.randn(3, 3, 16, 16)
    network = load(tmp_path / "net.safetensors")
    assert torch.equal(network(x), net(x))
    assert not {"eq", "_assert"} & {getattr(node.target, "__name__", "") for node in network.graph.nodes}
    verify_code(network)
