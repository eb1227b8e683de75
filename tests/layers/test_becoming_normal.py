"""How layers become layers with Normal weights, and what copies of them keep."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.layers import NormalLayer, give_normal_slabs, normal_layers, plain_parameters
from tests.layers.normals import LAYERS, noisy, normal

# becoming Normal ------------------------------------------------------------------------------------------------------


def test_scales_start_relative_to_the_weights() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(4, 3))
    with torch.no_grad():
        net[0].weight.fill_(-0.3)
        net[1].weight.zero_()
    give_normal_slabs(net, 0.5)
    for value in (net[0].weight_log_scale, net[0].bias_log_scale):
        torch.testing.assert_close(value.detach(), torch.full_like(value, math.log(0.5 * 0.3)))
    torch.testing.assert_close(net[1].bias_log_scale.detach(), torch.full((3,), math.log(0.5 / 2)))  # 1/√4


class Special(nn.Linear):
    pass


def test_which_layers_keep_point_weights() -> None:
    tied, biased = nn.Linear(3, 3), nn.Linear(3, 3)
    other, third = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight, third.bias = tied.weight, biased.bias
    with pytest.warns(FutureWarning):
        reparametrised = nn.utils.weight_norm(nn.Linear(3, 3))
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    others = [Special(3, 3), nn.ConvTranspose2d(3, 3, 2), nn.Conv3d(3, 3, 2), nn.BatchNorm1d(3), nn.Embedding(3, 3)]
    net = nn.Sequential(tied, other, biased, third, reparametrised, parametrised, *others, nn.Linear(3, 3))
    before = [type(module) for module in net]
    give_normal_slabs(net, 0.5)
    assert [type(module) for module in net][:-1] == before[:-1]
    assert list(normal_layers(net)) == [str(len(before) - 1)]
    assert not [name for name, _ in net[:-1].named_parameters() if "log_scale" in name]


def test_layers_that_are_skipped_keep_point_weights() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    give_normal_slabs(net, 0.5, skip=["0"])
    assert list(normal_layers(net)) == ["1"] and type(net[0]) is nn.Linear
    with pytest.raises(ConfigError, match="the network has no module '2'"):
        give_normal_slabs(net, 0.5, skip=["2"])


def test_a_second_time_changes_nothing() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 3, 2))
    give_normal_slabs(net, 0.5)
    with torch.no_grad():
        net[0].weight_log_scale.fill_(-7.0)
    before = {name: id(p) for name, p in net.named_parameters()}
    give_normal_slabs(net, 0.1)
    assert {name: id(p) for name, p in net.named_parameters()} == before
    assert bool((net[0].weight_log_scale == -7).all())


def test_hooks_and_parameters_stay() -> None:
    layer, seen = layers.Linear(3, 2, gate="unit"), []
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    kept = {name: id(p) for name, p in layer.named_parameters()}
    give_normal_slabs(layer, 0.5)
    output = layer(torch.randn(4, 3))
    assert seen[0] is output
    assert {name: id(p) for name, p in layer.named_parameters() if name in kept} == kept


def test_plain_parameters_are_those_of_the_plain_network() -> None:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1, bias=False))
    names = set(plain_parameters(net))
    give_normal_slabs(net, 0.5)
    assert set(plain_parameters(net)) == names == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"}


# copies ---------------------------------------------------------------------------------------------------------------


def through_a_state_dict(layer: NormalLayer) -> NormalLayer:
    other = LAYERS["gated Conv2d"][0]().double()
    give_normal_slabs(other, 0.1)
    other.load_state_dict(layer.state_dict())
    return other


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), through_a_state_dict]
)
def test_a_copy_has_the_same_law_and_nothing_that_was_handed_to_the_layer(
    copied: Callable[[NormalLayer], NormalLayer],
) -> None:
    layer = normal("gated Conv2d")
    x = torch.randn(5, 2, 3, 3).double()
    layer.handed = tuple(v * 4 for v in layer.variances())
    layer.draw_weights()
    other = copied(layer)
    assert type(other) is type(layer) and other.drawn is None and other.handed is None
    assert layer.drawn is not None and layer.handed is not None
    layer.drop_weights()
    layer.handed = None
    torch.manual_seed(0)
    expected = noisy(layer, x)
    torch.manual_seed(0)
    assert torch.equal(noisy(other, x), expected)
    with torch.no_grad():
        other.weight.zero_()
        other.bias_log_scale.zero_()
    torch.manual_seed(0)
    assert torch.equal(noisy(layer, x), expected)


def test_handed_variances_stand_for_its_own() -> None:
    layer = normal("Linear")
    x = torch.randn(2, 5).double()
    torch.manual_seed(0)
    own = noisy(layer, x).detach()
    layer.handed = tuple(4 * v.detach() for v in layer.variances())
    torch.manual_seed(0)
    handed = noisy(layer, x)
    torch.testing.assert_close(handed.detach() - layer(x), 2 * (own - layer(x)))
    assert torch.autograd.grad(handed.sum(), layer.weight_log_scale, allow_unused=True) == (None,)
