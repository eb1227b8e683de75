"""Groups say what surgery takes: exactly that, and nothing of what cannot go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.graph import gates_of
from bayesprune.graph.group import Group
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import shrink
from tests.layers.shared import MAPS, VECTORS, Stage
from tests.pruning.costed import attention, depthwise, grouped, normalised_conv, perceptron, residual_conv, stream

NETS = {
    **VECTORS, **MAPS, "attention": attention, "depthwise": depthwise, "grouped": grouped, "conv": normalised_conv,
    "perceptron": perceptron, "residual conv": residual_conv, "units on a stream": stream,
}  # fmt: skip


def gone(net: nn.Module, group: Group, structure: int) -> dict[tuple[str, int], list[int]]:
    """What surgery takes when the gates of one structure are off, by tensor and dimension."""
    gates = gates_of(net)
    off = {}
    for name in group.gates:
        gate = gates[name]
        off[name] = torch.zeros(gate.size, dtype=torch.bool)
        off[name][structure] = True
    _, index = shrink(net, off, may_empty=True)
    lost = {}
    for name, kept in index.kept.items():
        old = dict([*net.named_parameters(), *net.named_buffers()])[name]
        for dim, part in enumerate(kept):
            if part is not None:
                lost[name, dim] = sorted(set(range(old.shape[dim])) - set(part.tolist()))
    return {place: indices for place, indices in lost.items() if not place[0].endswith("theta")}


@pytest.mark.parametrize("name", NETS)
def test_surgery_takes_what_the_groups_say(name: str) -> None:
    """Gates of one group that are of one size have their structures in one order in these networks."""
    torch.manual_seed(0)
    net = NETS[name]()
    seen = 0
    for group in bp.groups(net):
        if not group.gates or group.size == 1:
            continue
        structure = group.size - 1
        said = {(tensor, dim): indices for tensor, dim, indices in group.of(structure)}
        assert gone(net, group, structure) == (said if group.can_go else {}), group.gates
        seen += 1
    several = [gate for gate in gates_of(net).values() if gate.size > 1]
    assert bool(seen) == bool(several)


def test_a_stage_of_a_residual_network() -> None:
    table = bp.groups(Stage(2))
    assert [(group.gates, group.size, group.can_go) for group in table] == [
        (("stream",), 2, True),
        (("blocks.0.inner",), 2, True),
        (("blocks.1.inner",), 2, True),
        ((), 3, False),
    ]
    assert table[0].written == ("conv", "blocks.0.conv2", "blocks.1.conv2")
    assert table[0].read == ("blocks.0.conv1", "blocks.1.conv1", "head")
    channel = {(tensor, dim): indices for tensor, dim, indices in table[0].of(1)}
    assert channel["conv.weight", 0] == channel["blocks.1.conv2.weight", 0] == channel["head.weight", 1] == [1]
    assert table[3].reason == "is an output of the network"
    weights = 36 + 2 + 4 + 4 * 36 + 4 * 4 + 6 + 3  # stem, its BatchNorm, blocks, their BatchNorms, head
    inner = 2 * 36 + 4
    assert [group.share for group in table[1:]] == pytest.approx([inner / weights, inner / weights, 9 / weights])


def test_printed_they_are_a_table() -> None:
    net = nn.Sequential(layers.Linear(4, 3, gate="unit"), nn.ReLU(), Residual(nn.Linear(3, 3)), nn.Linear(3, 1))
    with torch.no_grad():
        printed = str(bp.groups(net))
    assert printed.splitlines()[0].split("  ")[0] == "gates"
    assert [line.split()[:2] for line in printed.splitlines()[1:]] == [["0", "3"], ["2", "1"], ["-", "1"]]
    assert printed.splitlines()[1].endswith("no: it is written to, or read, where no gate of it silences")
    assert printed.splitlines()[2].endswith("yes") and "100.0%" not in printed


def test_groups_along_other_axes_too_with_the_example_of_a_bayesian_net() -> None:
    """Features and tokens: 4 · 5 inputs of the last layer, every one of one feature and of one token."""
    net = nn.Sequential(
        Gate(3, dim=-1), layers.Linear(3, 4, gate="unit"), nn.ReLU(), Gate(5, dim=1), nn.Flatten(), nn.Linear(20, 2)
    )
    bnn = bp.BayesianNet(net, num_data=10, example_input=torch.ones(1, 5, 3))
    found = {group.gates: group for group in bp.groups(bnn) if group.gates}
    assert {gates: group.size for gates, group in found.items()} == {("0",): 3, ("1",): 4, ("3",): 5}
    assert all(group.can_go for group in found.values())
    assert found["3",].of(1) == [("5.weight", 1, [4, 5, 6, 7])]
    assert found["1",].of(1) == [("1.weight", 0, [1]), ("1.bias", 0, [1]), ("5.weight", 1, [1, 5, 9, 13, 17])]


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), "has no gate"),
        (nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)), "takes its zeros into statistics"),
        (nn.Sequential(nn.Linear(2, 3)), "is an output of the network"),
    ],
)
def test_what_has_no_gate_has_a_group_and_a_reason(net: nn.Module, reason: str) -> None:
    group = bp.groups(net)[0]
    assert group.gates == () and group.size == 3 and reason in group.reason and not group.can_go


def test_a_branch_is_a_group_of_one() -> None:
    both = Gate(1, per_batch=True)
    net = nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3), gate=both), Residual(nn.Linear(3, 3), gate=both))
    group = bp.groups(net)[0]
    assert group.gates == ("1",) and group.written == ("1", "2") and group.can_go and group.share == 2 / 3
    assert [part[0] for part in group.of(0)] == ["1.body.weight", "1.body.bias", "2.body.weight", "2.body.bias"]


def test_a_gated_layer_without_a_by_pass_cannot_go() -> None:
    net = nn.Sequential(layers.Linear(3, 3, gate="layer"), nn.ReLU(), nn.Linear(3, 1))
    assert bp.groups(net)[0].reason == "would leave layer 2 without any input"
