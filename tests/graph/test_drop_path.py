"""Branches that are left out at random while training, as of torchvision and timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from bayesprune import layers
from bayesprune.graph import trace
from bayesprune.ops import draws
from bayesprune.pruning import compact, load, save
from tests.graph.test_axes import some_off, verify


class DropPath(nn.Module):
    """As timm's, of which nothing but the name is known."""

    __module__ = "timm.layers.drop"

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) > self.drop_prob) if self.training else x


class Block(nn.Module):
    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            layers.Conv2d(4, 6, 1, gate="unit"), nn.ReLU(), nn.Conv2d(6, 4, 1), layers.Gate(4), drop
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


DROPS = [StochasticDepth(0.5, "row"), DropPath(0.5)]


@pytest.mark.parametrize("drop", DROPS, ids=lambda drop: type(drop).__name__)
def test_they_are_followed(drop: nn.Module, tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Conv2d(4, 4, 1), Block(drop), nn.Conv2d(4, 2, 1)), torch.randn(3, 4, 3, 3)
    assert [node.target for node in trace(net.train()).graph.nodes if "body" in str(node.target)][-1] == "1.body.4"
    for seed in range(2):
        some_off(net, seed)
        plain = verify(net, x, x)
        assert plain.get_submodule("1.body.0").out_channels == int(net[1].body[0].gate.mode().sum())
    save(compact(net), tmp_path / "net.pt")
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net.pt")(x.double()), net(x.double()), rtol=0, atol=1e-12)


def test_they_draw_if_they_drop() -> None:
    assert all(map(draws, DROPS))
    assert not draws(StochasticDepth(0.0, "row")) and not draws(DropPath())
