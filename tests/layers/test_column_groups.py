"""Columns that share a gate: one of them is in the network if all are, exactly, and in the table's own order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import ConfigError

GROUPS = [[0, 1, 2], [3], [4, 6], [5], [7, 8]]


@pytest.mark.parametrize("off", [[0], [2, 4], [0, 1, 4], [1, 3], []])
def test_a_group_that_is_off_is_as_if_its_columns_were_0(off: list[int]) -> None:
    torch.manual_seed(0)
    gates = layers.ColumnGroups(GROUPS)
    net = nn.Sequential(gates, layers.Linear(9, 6, gate="unit"), nn.Tanh(), nn.Linear(6, 2))
    bnn = bp.BayesianNet(net, "gaussian", num_data=100, weights="normal", example_input=torch.randn(2, 9))
    x = torch.randn(7, 9).double()
    bnn.double().eval()
    with torch.no_grad():
        bnn.theta.fill_(1.0)
        net[1].gate.theta[::2] = 0.0
        without = bnn.net(x.clone().index_fill_(1, torch.tensor([c for k in off for c in GROUPS[k]]).long(), 0.0))
        for members, gate in zip(gates.members, gates.gates, strict=True):
            gate.theta[[k in off for k in members]] = 0.0
    torch.testing.assert_close(bnn.net(x), without, rtol=1e-12, atol=1e-12)
    small = bp.compact(bnn)
    torch.testing.assert_close(small(x), without, rtol=1e-9, atol=1e-12)
    if 2 in off:  # one of two pairs
        assert small.get_submodule("1").in_features == 7


def test_the_order_of_columns() -> None:
    gates = layers.ColumnGroups(GROUPS, theta=1.0)
    assert [columns.tolist() for columns in gates.columns()] == [[3, 5], [4, 6, 7, 8], [0, 1, 2]]
    assert gates(torch.arange(9.0)[None])[0].tolist() == [3, 5, 4, 6, 7, 8, 0, 1, 2]


@pytest.mark.parametrize("groups", [[], [[]], [[0], [2]], [[0, 1], [1]], [[0], []]])
def test_groups_that_leave_columns_out_or_share_them_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="every column from 0 on must be in one group"):
        layers.ColumnGroups(groups)
