"""Layers that are written as functions: they become modules, where their weights follow from parameters alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.errors import GateError
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off


class NormAct(nn.BatchNorm2d):
    """A normalisation with its activation, as timm has them."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum)
        return self.act(x)


class Standardised(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Subclassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = Standardised(3, 8, 3, padding=1), NormAct(8)
        self.conv2, self.bn2 = Standardised(8, 8, 3, padding=1, groups=8), NormAct(8)
        self.fc = nn.Linear(8, 6, bias=False)
        self.first, self.second = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(4))
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)))).mean((2, 3))
        x = F.linear(x, self.fc.weight, torch.cat([self.first, self.second]))
        return self.last(F.layer_norm(x.relu(), (6,)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Subclassed().double()
    for norm in (model.bn1, model.bn2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_functions_of_layers_become_modules_with_the_same_names(model: nn.Module) -> None:
    x = images()
    net = bp.convert(model, example_input=x)
    assert distance(net(x), model(x)) < 1e-12
    kinds = {name: type(net.get_submodule(name)) for name in ("conv1", "bn1", "conv2", "bn2", "fc")}
    assert kinds == {
        **dict.fromkeys(("conv1", "conv2"), nn.Conv2d),
        **dict.fromkeys(("bn1", "bn2"), nn.BatchNorm2d),
        "fc": nn.Linear,
    }
    for name in ("bn1.weight", "bn1.running_mean", "conv1.bias", "fc.weight"):
        assert torch.equal(net.state_dict()[name], model.state_dict()[name])
    assert torch.equal(net.get_parameter("fc.bias"), torch.cat([model.first, model.second]))
    filters = net.get_parameter("conv1.weight").flatten(1)  # standardised once and for all
    assert filters.requires_grad and filters.mean(1).abs().max() < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    assert small.get_submodule("conv1").out_channels == small.get_submodule("bn2").num_features < 8


def test_a_lifted_normalisation_follows_the_mode(model: nn.Module) -> None:
    net, x = bp.convert(model, example_input=images()).train(), images()
    before = net.get_buffer("bn1.running_mean").clone()
    net(x)
    assert not torch.equal(net.get_buffer("bn1.running_mean"), before)
    assert net.get_buffer("bn1.num_batches_tracked") == 1
    assert torch.equal(model.bn1.running_mean, before)  # that of the model stays


class Tied(nn.Module):
    """A layer whose weights are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.fc.weight, self.fc.bias)), self.fc.weight.t())


def test_weights_that_serve_several_calls_stay_what_they_are() -> None:
    with pytest.raises(GateError, match="found no place for a gate"):
        bp.convert(Tied(), example_input=torch.zeros(1, 4))
    model, x = nn.Sequential(Tied(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double(), torch.rand(2, 4).double()
    net = bp.convert(model, example_input=x)
    assert set(gates_of(net)) == {"1_gate"} and torch.equal(net(x), model(x))
