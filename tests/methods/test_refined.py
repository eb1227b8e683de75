"""Pruning by importance and by zeros of inputs: which go, by numbers set by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate
from bayesprune.methods.refined import RefinedLayerwise
from bayesprune.training import Settings, fit
from tests.methods.toys import batches
from tests.training.problems import Batches

RESTS = Settings(lr=1e-30)


def by_hand(norm: bool) -> nn.Module:
    """Units that are 0 in 3 of 4 examples, then units that are 0 in 1 of 4; importances 1 : 2 : 3 : 4 in both."""
    scale = nn.BatchNorm1d(4) if norm else nn.Identity()
    net = nn.Sequential(
        nn.Linear(4, 4), scale, nn.ReLU(), Gate(4), layers.Linear(4, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2)
    )
    steps = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.ones(4) if norm else steps))
        net[0].bias.fill_(-0.5)
        if norm:
            scale.weight.copy_(steps)
        net[4].weight.copy_(steps.diag())
        net[4].bias.copy_(torch.tensor([-0.1, 0.1, 0.1, 0.1]))  # the first is 0 in 3 of 4 examples, no other ever
    return net.eval()


def inputs(on: int) -> Batches:
    """One input of four is 1 in every example."""
    return Batches(torch.eye(4).repeat(on, 1), torch.zeros(4 * on, dtype=torch.long), 4)


@pytest.mark.parametrize("norm", [False, True])
def test_channels_go_at_the_share_of_importance_that_zeros_allow(norm: bool) -> None:
    """κ at which units go: of the first layer 0.1, 0.3, 0.6, 1 over 0.75, of the second the same over 0.1875.

    4 a + a b + 2 b multiply-adds of a and b units, 40 at the start: the first three go from the first layer (κ 0.8),
    where the second gives its first at κ = 0.53, behind two of the first, and would give the next at 1.6.
    """
    for goal, left in ((0.8, ([1, 2, 3], [0, 1, 2, 3])), (0.6, ([2, 3], [0, 1, 2, 3])), (0.5, ([2, 3], [1, 2, 3]))):
        net = by_hand(norm)
        if norm:  # what it subtracts is nothing, and what it gives is what comes in times γ
            net[1].momentum = 0.0
        history = fit(net, inputs(3), epochs=2, method=RefinedLayerwise(goal), settings=RESTS)
        gone = [{r.index for r in history.removals if r.gate == gate} for gate in ("3", "4")]
        assert tuple([s for s in range(4) if s not in part] for part in gone) == left, goal


def test_zeros_are_those_of_what_reads() -> None:
    """As computed by hand from the network itself."""
    net = by_hand(False)
    x = torch.eye(4)
    first = net[:3](x)
    second = net[3:6](first)
    assert float((first == 0).float().mean()) == 0.75 and float((second == 0).float().mean()) == 0.1875


def test_without_relu_there_are_no_zeros() -> None:
    net = nn.Sequential(layers.Linear(8, 6, gate="unit"), nn.GELU(), nn.Linear(6, 2))
    with pytest.raises(ConfigError, match=r"has no ReLU, so nothing in it is exactly 0; take .* l1_filters say"):
        fit(net, batches(), epochs=2, method="refined", settings=RESTS)
