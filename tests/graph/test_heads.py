"""The layer of attention with a gate for each head: it is torch's while all are on, and loses heads that are off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.pruning import compact, load, save
from tests.graph.test_axes import some_off, verify


class Cross(nn.Module):
    """Attention of one sequence to another that is made of it."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.keys, self.attention, self.out = nn.Linear(12, 6), attention, nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x)
        return self.out(self.attention(x, keys, keys, need_weights=False)[0].mean(1))


def torchs(batch_first: bool = True, bias: bool = True) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(12, 4, kdim=6, vdim=6, batch_first=batch_first, bias=bias)
    for p in made.parameters():
        nn.init.normal_(p)
    return made.double().eval()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_that_of_torch(batch_first: bool, bias: bool) -> None:
    theirs = torchs(batch_first, bias)
    ours = layers.MultiheadAttention.of(theirs)
    x, y = torch.randn(3, 5, 12).double(), torch.randn(3, 5, 6).double()
    torch.testing.assert_close(ours(x, y, y)[0], theirs(x, y, y)[0], rtol=0, atol=1e-12)
    alike = nn.MultiheadAttention(12, 4, batch_first=batch_first).double().eval().requires_grad_(False)
    ours = layers.MultiheadAttention.of(alike)
    torch.testing.assert_close(ours(x, x, x)[0], alike(x, x, x)[0], rtol=0, atol=1e-12)
    assert [name for name, p in ours.named_parameters() if p.requires_grad] == ["gate.theta"]


def test_heads_go() -> None:
    net, x = Cross(layers.MultiheadAttention.of(torchs())), torch.randn(3, 5, 12)
    for seed in range(3):
        some_off(net, seed)
        plain, left = verify(net, x, x), 3 * int(net.attention.gate.mode().sum())
        for name in ("q_proj", "k_proj", "v_proj"):
            assert plain.get_submodule(f"attention.{name}").out_features == left
        assert plain.get_submodule("attention.out_proj").in_features == left


def test_training_cutting_and_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Cross(layers.MultiheadAttention(12, 4, kdim=6, vdim=6, theta=0.6))
    x, y = torch.randn(32, 5, 12), torch.randn(32).sign().long().clamp(min=0)
    bnn = bp.BayesianNet(net, num_data=32, example_input=x)
    with torch.no_grad():
        net.attention.gate.theta[1] = 0.0
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    bp.fit(bnn, data, epochs=2)
    bnn.eval()
    plain = compact(bnn)
    torch.testing.assert_close(plain(x), bnn.net(x), rtol=0, atol=1e-5)
    save(plain, tmp_path / "net.pt")
    torch.testing.assert_close(load(tmp_path / "net.pt")(x), plain(x), rtol=0, atol=1e-6)


def test_what_it_cannot_be() -> None:
    with pytest.raises(ConfigError, match="5 heads do not divide 12 features"):
        layers.MultiheadAttention(12, 5)
    with pytest.raises(ConfigError, match="add a step that no head can be cut of"):
        layers.MultiheadAttention.of(nn.MultiheadAttention(12, 4, add_bias_kv=True))
    with pytest.raises(ConfigError, match=r"attention must be a .*MultiheadAttention, got a Linear"):
        layers.MultiheadAttention.of(nn.Linear(12, 4))  # type: ignore[arg-type]
