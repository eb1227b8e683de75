"""Streams, to which several layers add: one gate multiplies what each of them adds, and a channel goes everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

import bayesprune as bp
from bayesprune.graph import gates_of
from bayesprune.layers import Gate
from tests.pruning.verify import draw_thetas, randomise_statistics
from tests.training.problems import Batches, bayesian


def resnet() -> nn.Module:
    return models.ResNet(BasicBlock, [1, 2, 1, 1], num_classes=4)


def mobilenet() -> nn.Module:
    return models.MobileNetV2(4, 0.35, [[1, 16, 1, 1], [4, 24, 2, 2], [4, 32, 2, 2]])


@pytest.mark.parametrize(
    ("make", "streams", "branches"),
    [
        pytest.param(resnet, 2, True, marks=pytest.mark.slow),  # those of one block are read in one place
        (mobilenet, 2, True),
    ],
)
def test_channels_of_a_stream_go_everywhere(make, streams: int, branches: bool) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 32, 32)
    net = bp.convert(model, streams=True, branches=branches, example_input=x)
    torch.testing.assert_close(net(x), model(x))
    without = gates_of(bp.convert(model, branches=branches, example_input=x))
    assert len(gates_of(net)) == len(without) + streams
    randomise_statistics(net, 1)
    draw_thetas(net, 1)
    net, x = net.double(), x.double()
    for multiple in (1, 8):
        small = bp.compact(net, round_to=multiple, example_input=x)
        torch.testing.assert_close(small(x), net(x), rtol=1e-9, atol=1e-9)
        assert not any("mask" in str(node.target) for node in small.graph.nodes)  # type: ignore[operator, union-attr]
    if make is resnet:
        on, small = int(gates_of(net)["conv1_gate"].mode().sum()), bp.compact(net, example_input=x)
        assert small.get_submodule("conv1").out_channels == on < 64
    assert all(group.size == 4 for group in bp.structures(net, example_input=x.double()) if group.kind == "none")


def test_a_stream_that_a_normalisation_reads_is_left_with_the_reason() -> None:
    model = models.VisionTransformer(16, 8, 1, 2, 8, 12, num_classes=4).eval()
    x = torch.randn(2, 3, 16, 16)
    net = bp.convert(model, streams=True, example_input=x)
    assert gates_of(net).keys() == gates_of(bp.convert(model, example_input=x)).keys()
    reasons = {group.gate: group.rules for group in bp.structures(net, example_input=x) if group.kind == "none"}
    assert "combined by add" in reasons["encoder.layers.encoder_layer_0.residual.body.self_attention.out_proj"]


class Blocks(nn.Module):
    """Three layers add to eight channels, the last six of which are noise."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x).relu()
        x = x + self.first(x).relu()
        return self.head(x + self.second(x).relu())


def test_a_stream_is_pruned_in_training() -> None:
    torch.manual_seed(0)
    x = torch.randn(480, 8)
    loader = Batches(x, (x[:, :2].sum(1) > 0).long())
    net = bp.convert(Blocks(), units=False, branches=False, streams=True, example_input=x[:2])
    assert [gate.size for gate in gates_of(net).values()] == [8]
    assert sum(isinstance(part, Gate) for _, part in net.named_modules(remove_duplicate=False)) == 3
    bnn = bayesian(net, log_gamma=4.0)
    bp.fit(bnn, loader, epochs=12, settings=bp.training.Settings(every=1))
    small = bp.compact(bnn.eval())
    left = {part.in_features for name, part in small.named_modules() if name in ("first", "second", "head")}
    assert len(left) == 1 and left < set(range(1, 8))
    torch.testing.assert_close(small(x), bnn.net(x), rtol=1e-4, atol=1e-4)
    assert float((small(x).argmax(1) == loader.y).float().mean()) > 0.9
