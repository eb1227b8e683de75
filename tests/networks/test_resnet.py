"""The residual networks of He et al. (2016): sizes as published, outputs as the paper writes them, gates in place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.networks import resnet
from bayesprune.pruning import compact, cost
from tests.pruning.verify import draw_thetas, randomise_statistics


def set_gates(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for gate in gates_of(net).values():
            gate.theta.fill_(value)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_sizes_are_the_published_ones(depth: int, millions: float) -> None:
    """Table 6 of the paper has 0.27, 0.46, 0.66, 0.85 and 1.7 million, with by-passes that have no parameters."""
    net = resnet(depth)
    n = (depth - 2) // 6
    layers = 27 * 16 + 9 * 16 * 16 * 2 * n + 9 * (32 * 32 + 64 * 64) * (2 * n - 0.5) + 64 * 10 + 10
    norms = 2 * (16 * (2 * n + 1) + (32 + 64) * 2 * n)
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    params = cost(net).params
    assert params == layers + norms + projections
    assert round((params - projections) / 1e6, 2) == millions
    assert len([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]) == depth + 2


def test_gates_and_stages() -> None:
    names = [f"stage{stage}.block{block}" for stage in (1, 2, 3) for block in (1, 2, 3)]
    net = resnet(20, width=2)
    assert {name: gate.size for name, gate in gates_of(net).items()} == dict.fromkeys(names, 1)
    units = {f"{name}.body.3": 2 * 2 ** (int(name[5]) - 1) for name in names}
    both = gates_of(resnet(20, width=2, units=True))
    assert {name: gate.size for name, gate in both.items()} == {**dict.fromkeys(names, 1), **units}


@pytest.mark.parametrize("depth", [8, 20, 32, 56, 110])
def test_inference_begins_with_the_first_blocks_of_every_stage(depth: int) -> None:
    """Each later block begins with a quarter of θ of the one before, so that however deep they are 9 are on in a step;
    before training all are."""
    gates = gates_of(resnet(depth, width=1))
    begins = {name: gate.theta.item() if gate.begin is None else gate.begin for name, gate in gates.items()}
    expected = [0.9, 0.9, 0.9, 0.225, 0.05625, 0.0140625]
    assert [begins[f"stage2.block{n + 1}"] for n in range(min(len(gates) // 3, 6))] == pytest.approx(
        expected[: len(gates) // 3]
    )
    assert sum(begins.values()) == pytest.approx(9 - 0.9 / 4 ** (len(gates) // 3 - 3) if depth >= 20 else 2.7)
    assert all(bool(gate.state()) for gate in gates.values())


def test_multiply_adds_by_hand() -> None:
    """ResNet-20 on 32x32 with all gates on, and with all off: the stem, two projections and the output layer."""
    net, x = resnet(20), torch.randn(1, 3, 32, 32)
    ends = 27 * 16 * 32 * 32 + 16 * 32 * 16 * 16 + 32 * 64 * 8 * 8 + 64 * 10
    stage = 9 * 16 * 16 * 32 * 32  # one 3x3 convolution, as many multiply-adds in every stage
    set_gates(net, 1.0)
    assert cost(net, x).macs == ends + stage * (6 + 5.5 + 5.5) == 40_813_184
    set_gates(net, 0.0)
    assert cost(net, x).macs == cost(compact(net), x).macs == ends == 705_152


def as_published(state: dict[str, Tensor], x: Tensor, xi: dict[str, float]) -> Tensor:
    """The forward pass of section 4.2, with ξ: relu(P x + ξ F(x)) in every block."""

    def layer(conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, shift)

    x = F.relu(layer("stem.0", "stem.1", x))
    for name, on in xi.items():
        stride = 1 if name[5] == "1" or not name.endswith("block1") else 2
        branch = F.relu(layer(f"{name}.body.0", f"{name}.body.1", x, stride))
        branch = layer(f"{name}.body.3", f"{name}.body.4", branch)
        if f"{name}.shortcut.0.weight" in state:
            x = layer(f"{name}.shortcut.0", f"{name}.shortcut.1", x, stride)
        x = F.relu(x + on * branch)
    return F.linear(x.mean((2, 3)), state["head.weight"], state["head.bias"])


def test_outputs_are_those_of_the_paper() -> None:
    net = resnet(20, (2, 12, 10), 7, width=3).double().eval()
    draw_thetas(net, 0, 0.5)
    randomise_statistics(net, 0)
    xi = {name: float(gate.theta > 0.5) for name, gate in gates_of(net).items()}
    assert 0 < sum(xi.values()) < 9
    x = torch.randn(3, 2, 12, 10).double()
    torch.testing.assert_close(net(x), as_published(net.state_dict(), x, xi), rtol=1e-12, atol=1e-12)


def test_by_passes_are_projections_only_where_shapes_change() -> None:
    net = resnet(14, width=4)
    blocks = {name: module for name, module in net.named_modules() if isinstance(module, Residual)}
    projected = {name for name, block in blocks.items() if not isinstance(block.shortcut, nn.Identity)}
    assert projected == {"stage2.block1", "stage3.block1"}


def test_initial_weights_are_drawn_as_published() -> None:
    """Variance 2 / (9 · 64): the standard error of 18,432 normal numbers' variance is 1.04 %, and 4 of them 4.2 %."""
    torch.manual_seed(0)
    weight = resnet(8).get_parameter("stage3.block1.body.0.weight").detach()
    assert weight.shape == (64, 32, 3, 3)
    assert float(weight.var()) == pytest.approx(2 / (9 * 64), rel=0.042)


def test_units_within_a_branch_go_with_all_that_belongs_to_them() -> None:
    """In conv-norm-relu-gate-conv, a channel is 9 a + 2 + 9 b parameters and 9 (a + b) multiply-adds a position."""
    net, x = resnet(8, (1, 8, 8), width=4, units=True).eval(), torch.randn(2, 1, 8, 8)
    set_gates(net, 1.0)
    dense = cost(net, x)
    with torch.no_grad():
        net.get_submodule("stage2.block1.body.3").theta[[0, 2, 7]] = 0.0
    small = compact(net)
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters() if name.startswith("stage2.block1.body")}
    assert shapes["stage2.block1.body.0.weight"] == (5, 4, 3, 3)
    assert shapes["stage2.block1.body.1.weight"] == (5,)
    assert shapes["stage2.block1.body.4.weight"] == (8, 5, 3, 3)
    size = cost(small, x)
    assert dense.params - size.params == 3 * (9 * 4 + 2 + 9 * 8)
    assert dense.macs - size.macs == 3 * 9 * (4 + 8) * 4 * 4
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-5)


def test_both_kinds_of_gates_at_once() -> None:
    net = resnet(8, (1, 8, 8), width=4, units=True).eval()
    set_gates(net, 1.0)
    with torch.no_grad():
        net.get_submodule("stage1.block1").gate.theta.zero_()
        net.get_submodule("stage3.block1.body.3").theta[1:] = 0.0
    small = compact(net)
    assert not [name for name, _ in small.named_parameters() if name.startswith("stage1")]
    assert tuple(small.get_parameter("stage3.block1.body.4.weight").shape) == (16, 1, 3, 3)
    assert not [m for m in small.modules() if isinstance(m, Gate)]


@pytest.mark.parametrize(("depth", "advice"), [(2, "8"), (7, "8"), (18, "14 or 20"), (57, "56 or 62")])
def test_other_depths_are_refused_with_those_next_to_them(depth: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"depth must be 6n \+ 2 .*, got {depth}; try {advice}$"):
        resnet(depth)
    with pytest.raises(ConfigError, match="depth must be a whole number, at least 1, got -4"):
        resnet(-4)


@pytest.mark.parametrize("shape", [(784,), (28, 28), (3, 3, 32), (1, 32, 2)])
def test_inputs_it_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"resnet: expected images .* of at least 4x4, got .*; use lenet300 or resmlp"
    ):
        resnet(20, shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 4, 5), (4, 33, 17)])
def test_inputs_it_can_take(shape: tuple[int, ...]) -> None:
    assert resnet(8, shape, 6, width=2)(torch.randn(2, *shape)).shape == (2, 6)
