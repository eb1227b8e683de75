"""A transposed convolution with gates: what it computes, and what removal leaves of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.graph import check_gates, gates_of
from bayesprune.layers import ConvTranspose2d, Gate
from bayesprune.pruning import ExpectedCost, compact, cost
from bayesprune.training.cuts import _structure_norms
from tests.pruning.costed import enumerated, probabilities
from tests.pruning.verify import draw_thetas, verify_compaction


def decoder(gate: str | Gate | None = "unit", **options: object) -> nn.Module:
    """(B, 2, 4, 4) to (B, 2, 9, 9)."""
    return nn.Sequential(
        layers.Conv2d(2, 3, 1, gate="unit"), nn.ReLU(), ConvTranspose2d(3, 4, 3, stride=2, gate=gate, **options),
        nn.ReLU(), nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@pytest.mark.parametrize("gate", ["unit", "layer"])
def test_its_outputs_times_the_gates(gate: str) -> None:
    layer, x = ConvTranspose2d(3, 4, 3, stride=2, padding=1, gate=gate), torch.randn(5, 3, 4, 4)
    assert layer.gate is not None
    size = 4 if gate == "unit" else 1
    xi = (torch.rand(5, size) < 0.5).float()
    draw = layers.Draw([size])
    layer.gate.connect(draw, 0)
    with draw.use(xi):
        y = layer(x)
    assert torch.equal(y, F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1) * xi[:, :, None, None])


@pytest.mark.parametrize("gate", ["unit", "layer"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_computes_the_same(seed: int, gate: str) -> None:
    torch.manual_seed(seed)
    net, x = decoder(gate), torch.randn(3, 2, 4, 4)
    draw_thetas(net, seed)
    check_gates(net)
    verify_compaction(net, x)


def test_what_a_gate_takes_along() -> None:
    net, left = decoder(), []
    for first in (1.0, 0.0):
        with torch.no_grad():
            net[2].gate.theta.fill_(1.0)[0] = first
        left.append(cost(compact(net), torch.zeros(1, 2, 4, 4)))
    assert left[0].params - left[1].params == 3 * 9 + 1 + 2
    assert left[0].macs - left[1].macs == 3 * 9 * 16 + 2 * 81  # every input position times the kernel; the 1x1 behind


def test_its_expected_cost_is_the_mean_over_gates() -> None:
    torch.manual_seed(0)
    net, x = decoder(), torch.randn(1, 2, 4, 4)
    theta = probabilities(net)
    found = ExpectedCost(net, x)(theta)
    params, macs = enumerated(net, x, theta)
    assert (float(found["params"]), float(found["macs"])) == pytest.approx((params, macs), rel=1e-9)


def test_one_gate_of_two_layers_takes_both_along() -> None:
    stream = Gate(4)
    first, second = ConvTranspose2d(2, 4, 2, gate=stream), layers.Conv2d(4, 4, 1, gate=stream)
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        stream.theta[1:3] = 0.0
    assert list(gates_of(net)) == ["0"]
    plain = verify_compaction(net, torch.randn(3, 2, 4, 4))
    assert cost(plain).params == (2 * 2 * 4 + 2) + (2 * 2 + 2) + (2 * 2 + 2)


def test_depthwise_and_grouped() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), ConvTranspose2d(4, 4, 2, groups=4, gate="unit"), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net[1].gate.theta[0] = 0.0
    net, x = net.double().eval(), torch.randn(3, 2, 4, 4).double()
    torch.testing.assert_close(compact(net)(x), net(x), rtol=0, atol=1e-12)
    for outputs, groups in ((4, 2), (8, 4)):
        with pytest.raises(ConfigError, match=f"has one group, or .*, got groups={groups} for 4 inputs and {outputs}"):
            ConvTranspose2d(4, outputs, 2, groups=groups, gate="unit")
    with pytest.raises(ConfigError, match="ConvTranspose2d: gate must be 'unit', 'layer' or None, got 'filter'"):
        ConvTranspose2d(4, 4, 2, gate="filter")


def test_the_norm_of_a_structure_is_that_of_the_weights_that_lead_to_it() -> None:
    layer = ConvTranspose2d(3, 3, 2, gate="unit")  # as many inputs as outputs: no size tells which is which
    expected = torch.stack([layer.weight[:, s].detach().norm() for s in range(3)])
    torch.testing.assert_close(_structure_norms([layer], 3), expected)
