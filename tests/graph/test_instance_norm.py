"""Channels that are normalised by their own statistics, example by example, are removed with their filters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.errors import GateError
from bayesprune.graph import check_gates
from bayesprune.layers import Gate
from bayesprune.pruning import cost
from tests.graph.test_axes import verify

NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def network(dims: int, **options: bool) -> nn.Module:
    conv = CONVS[dims]
    torch.manual_seed(0)
    net = nn.Sequential(conv(2, 5, 3), NORMS[dims](5, **options), nn.Sigmoid(), Gate(5), conv(5, 3, 1))
    with torch.no_grad():
        for tensor in (*net[1].parameters(), *net[1].buffers()):
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
        net[3].theta[1:3] = 0.0
    return net


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_goes_with_its_filter(dims: int, track: bool, affine: bool) -> None:
    """Of five filters of 2 · 3^d weights and a bias, with all that is behind them, three are left."""
    net = network(dims, affine=affine, track_running_stats=track)
    x = torch.randn(2, 2, *[5] * dims, dtype=torch.float64)
    plain = verify(net, x)
    norm = plain.get_submodule("1")
    assert norm.num_features == 3 and (len(norm.running_mean) == 3 if track else norm.running_mean is None)
    assert cost(plain).params == 3 * (2 * 3**dims + 1 + 2 * affine) + 3 * 3 + 3
    if not track:
        with torch.no_grad():  # it has but one mode
            torch.testing.assert_close(plain.train()(x), net.train()(x), rtol=0, atol=1e-10)


def test_channels_of_one_example_are_not_followed() -> None:
    """A matrix is one example for it, whose first dimension has the channels: the layer before loses nothing."""
    net = nn.Sequential(nn.Linear(3, 5), nn.InstanceNorm1d(5), Gate(5), nn.Linear(5, 2))
    net[2].theta.data[1] = 0.0
    plain = verify(net, torch.randn(5, 3))
    assert plain.get_submodule("0").out_features == 5 and plain.get_submodule("3").in_features == 4


def test_a_gate_before_it_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(2, 5, 3), Gate(5), nn.InstanceNorm2d(5), nn.Conv2d(5, 3, 1))
    with pytest.raises(GateError, match="comes before 2, a InstanceNorm2d"):
        check_gates(net)
