"""Torchvision's residual networks with gates against torchvision's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

import bayesprune as bp
from bayesprune.errors import ConfigError
from bayesprune.layers import gates_of
from bayesprune.networks import from_torchvision, resnet18, resnet34, resnet50
from bayesprune.pruning import compact, cost
from tests.pruning.verify import randomise_statistics

Build = Callable[..., nn.Module]
PAIRS = [(resnet18, models.resnet18), (resnet34, models.resnet34), (resnet50, models.resnet50)]


def small_bottlenecks(**options: object) -> models.ResNet:
    return models.ResNet(models.resnet.Bottleneck, [2, 1, 1, 1], num_classes=6, **options)


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize(("gated", "own"), PAIRS)
def test_with_the_same_seed_it_is_torchvisions_network(gated: Build, own: Build, units: bool) -> None:
    """Equal outputs in both modes, and equal running statistics after a pass in training mode."""
    torch.manual_seed(3)
    expected = own(num_classes=7)
    torch.manual_seed(3)
    net = gated((3, 32, 32), 7, units=units)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(x), expected(x))
        assert torch.equal(net.eval()(x), expected.eval()(x))


@pytest.mark.parametrize(
    ("build", "params", "branches"), [(resnet18, 11_689_512, 8), (resnet34, 21_797_672, 16), (resnet50, 25_557_032, 16)]
)
def test_sizes_are_the_published_ones(build: Build, params: int, branches: int) -> None:
    net = build()
    assert cost(net).params == params
    names = [f"{stage}.{block}" for stage, part in net.named_children() for block in part._modules if "_" not in block]
    assert list(gates_of(net)) == names and len(names) == branches


def test_multiply_adds_are_the_published_ones() -> None:
    """1.81 billion for ResNet-18 at 224x224; with every branch off, the stem, three projections and the output."""
    net, x = resnet18(), torch.zeros(1, 3, 224, 224)
    assert cost(net, x).macs == 1_814_073_344
    with torch.no_grad():
        for gate in gates_of(net).values():
            gate.theta.zero_()
    ends = 147 * 64 * 112**2 + 64 * 128 * 28**2 + 128 * 256 * 14**2 + 256 * 512 * 7**2 + 512 * 1000
    assert cost(net, x).macs == cost(compact(net), x).macs == ends


@pytest.mark.parametrize("units", [False, True])
def test_a_trained_model_is_taken_over(units: bool) -> None:
    """Its weights and statistics are copied under their names within the block, and it is not touched itself."""
    model = small_bottlenecks().eval()
    randomise_statistics(model, 0)
    before, structure = {name: value.clone() for name, value in model.state_dict().items()}, str(model)
    net = from_torchvision(model, units=units).eval()
    taken = net.state_dict()
    for name, value in before.items():
        inner = re.sub(r"^(layer\d\.\d)\.(conv|bn)", r"\1.body.\2", name).replace("downsample", "shortcut")
        assert torch.equal(taken.pop(inner), value)
    assert set(taken) == {name for name, _ in net.named_parameters() if name.endswith("theta")}
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert str(model) == structure
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_units_are_gated_after_both_activations_of_a_bottleneck() -> None:
    """A channel of the first is a + 2 + 9 b parameters, of the second 9 a + 2 + b."""
    net = from_torchvision(small_bottlenecks(), units=True).eval()
    gates = {name: gate.size for name, gate in gates_of(net).items() if name.startswith("layer2.0")}
    assert gates == {"layer2.0": 1, "layer2.0.body.gate1": 128, "layer2.0.body.gate2": 128}
    dense = cost(net).params
    with torch.no_grad():
        net.get_submodule("layer2.0.body.gate1").theta[:5] = 0.0
        net.get_submodule("layer2.0.body.gate2").theta[:3] = 0.0
    small, x = compact(net), torch.randn(1, 3, 32, 32)
    assert tuple(small.get_parameter("layer2.0.body.conv2.weight").shape) == (125, 123, 3, 3)
    removed = 5 * (256 + 2) + 3 * (2 + 512) + 9 * (128 * 128 - 123 * 125)
    assert dense - cost(small).params == removed
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), rtol=1e-5, atol=1e-5)


def test_gates_lie_where_the_weights_do() -> None:
    net = from_torchvision(small_bottlenecks().to("meta"), units=True)
    assert {p.device.type for p in net.parameters()} == {"meta"}


def test_of_convolutions_in_groups_whole_groups_go() -> None:
    """ResNeXt: four groups of four channels; a channel that goes alone leaves its place, a group takes all with it."""
    model = small_bottlenecks(groups=4, width_per_group=4)
    assert bp.BayesianNet(from_torchvision(model), num_data=10).num_branches == 5
    net, x = from_torchvision(model, units=True).double().eval(), torch.randn(1, 3, 32, 32).double()
    bp.BayesianNet(net, num_data=10)
    randomise_statistics(net, 0)
    with torch.no_grad():
        net.get_submodule("layer1.0.body.gate2").theta[4:8] = 0.0
        net.get_submodule("layer1.1.body.gate2").theta[0] = 0.0
    small = compact(net)
    assert tuple(small.get_parameter("layer1.0.body.conv2.weight").shape) == (12, 4, 3, 3)
    assert tuple(small.get_parameter("layer1.0.body.conv1.weight").shape) == (12, 64, 1, 1)
    assert tuple(small.get_parameter("layer1.1.body.conv2.weight").shape) == (16, 4, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(2, 2)), models.squeezenet1_1()], ids=["mlp", "squeezenet"])
def test_other_models_are_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=rf"expected a torchvision ResNet, got {type(model).__name__}; .*Residual"):
        from_torchvision(model)


def test_other_blocks_are_refused() -> None:
    class Doubled(BasicBlock):
        pass

    model = models.ResNet(Doubled, [1, 1, 1, 1])
    with pytest.raises(ConfigError, match=r"layer1.0 is a Doubled, expected a BasicBlock or Bottleneck"):
        from_torchvision(model)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((784,), r"at least 32x32, got \(784,\)"), ((3, 31, 64), "at least 32x32"), ((1, 64, 64), "of 3 channels")],
)
@pytest.mark.parametrize("build", [resnet18, resnet34, resnet50])
def test_inputs_it_cannot_take(build: Build, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"{build.__name__}: expected images .*{message}.*; use resnet20"):
        build(shape)


def test_torchvision_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, bayesprune; bayesprune.networks.resnet(8); assert 'torchvision' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
