from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError, DataError
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import compact, cost
from bayesprune.types import Cost
from tests.pruning.verify import snapshot


def test_linear_and_convolution() -> None:
    conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
    net = nn.Sequential(conv, nn.Flatten(), nn.Linear(12, 5, bias=False))
    params = (3 * 2 * 9 + 3) + 2 * 3 + 12 * 5
    macs = 3 * 2 * 9 * 16 + 12 * 5
    assert cost(net, torch.randn(7, 2, 4, 4)) == Cost(params, macs)
    assert cost(net) == Cost(params, None)


def test_groups_and_strides() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4))
    assert cost(net, torch.randn(1, 4, 7, 7)).macs == 4 * 9 * 9


def test_gates_cost_nothing() -> None:
    gated = nn.Sequential(Gate(6), layers.Linear(6, 4, gate="unit"), Residual(nn.Linear(4, 4)))
    assert cost(gated, torch.randn(2, 6)) == Cost(6 * 4 + 4 + 4 * 4 + 4, 6 * 4 + 16)


def test_compacted() -> None:
    net = nn.Sequential(Gate(6), layers.Linear(6, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        net[0].theta[2:] = 0.1
        net[1].gate.theta[:1] = 0.1
    assert cost(compact(net), torch.randn(2, 6)) == Cost(2 * 3 + 3 + 3 * 3 + 3, 2 * 3 + 3 * 3)


def test_mode_and_statistics_stay() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    net[1].eval()
    before = snapshot(net)
    cost(net, torch.randn(3, 2, 5))
    assert [m.training for m in net] == [True, False, True] and net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with pytest.raises(DataError, match=r"cost: the network does not take inputs of shape .* layer '0', Conv1d"):
        cost(net, torch.randn(3, 9, 5))
    assert net.training and not net[1].training


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert cost(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 3)) == Cost(12, 18)


def test_refused_input() -> None:
    with pytest.raises(ConfigError, match=r"at least one example, got shape \(0, 3\)"):
        cost(nn.Linear(3, 2), torch.zeros(0, 3))
