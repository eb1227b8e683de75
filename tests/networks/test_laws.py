"""What must hold for every deep network: it is accepted, compacted without a change, priced exactly, kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.layers import gates_of
from bayesprune.networks import lenet5_bypass, resnet, resnet18, resnet34, resnet50, vgg16
from bayesprune.pruning import ExpectedCost, compact, cost, shrink
from tests.pruning.verify import draw_thetas, off_by_mode, randomise_statistics, verify_compaction

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: resnet(20, (3, 16, 16), 5, width=4), (3, 16, 16)),
    "resnet20 of digits": (lambda: resnet(20, (1, 8, 8), 5, width=4), (1, 8, 8)),
    "resnet14 with units": (lambda: resnet(14, (1, 28, 28), 5, width=4, units=True), (1, 28, 28)),
    "vgg16": (lambda: vgg16((3, 32, 32), 5, width=4), (3, 32, 32)),
    "vgg16 of MNIST": (lambda: vgg16((1, 28, 28), 5, width=4), (1, 28, 28)),
    "lenet5 with by-passes": (lambda: lenet5_bypass((1, 28, 28), 5, widths=(4, 6, 10)), (1, 28, 28)),
    "resnet18": (lambda: resnet18((3, 32, 32), 5), (3, 32, 32)),
    "resnet18 with units": (lambda: resnet18((3, 32, 32), 5, units=True), (3, 32, 32)),
    "resnet34": (lambda: resnet34((3, 32, 32), 5), (3, 32, 32)),
    "resnet50 with units": (lambda: resnet50((3, 32, 32), 5, units=True), (3, 32, 32)),
}
LARGE = {"resnet34", "resnet50 with units"}


def cases(*names: str) -> pytest.MarkDecorator:
    """One test for each of these networks, the large ones in the slow stage."""
    marked = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]
    return pytest.mark.parametrize("case", marked)


def drawn(case: str, seed: int, keep: float = 0.5) -> nn.Module:
    """A network with such a part of its gates on, and normalisations that are not those of a new one."""
    torch.manual_seed(seed)
    net = CASES[case][0]().eval()
    draw_thetas(net, seed, keep)
    randomise_statistics(net, seed)
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@cases(*CASES)
def test_compaction_changes_nothing(case: str, dtype: torch.dtype) -> None:
    verify_compaction(drawn(case, 1), torch.randn(2, *CASES[case][1]), dtype)


@pytest.mark.parametrize("keep", [0.0, 1.0])
@cases("resnet14 with units", "vgg16", "resnet50 with units")
def test_compaction_with_every_branch_off_or_on(case: str, keep: float) -> None:
    net = drawn(case, 2, keep)
    verify_compaction(net, torch.randn(2, *CASES[case][1]))


@cases(*CASES)
def test_every_gate_is_accepted_and_has_its_probability(case: str) -> None:
    net = CASES[case][0]()
    bnn = bp.BayesianNet(net, num_data=100)
    assert {name: len(theta) for name, theta in bnn.gate_probs().items()} == {
        n: g.size for n, g in gates_of(net).items()
    }
    assert bnn.num_branches == sum(gate.per_batch for gate in gates_of(net).values())


@pytest.mark.parametrize("keep", [0.5, 1.0])
@cases(*CASES)
def test_expected_cost_is_the_cost_where_gates_are_certain(case: str, keep: float) -> None:
    net, x = drawn(case, 5, keep), torch.randn(1, *CASES[case][1])
    expected = ExpectedCost(net, x)({name: gate.mode() for name, gate in gates_of(net).items()})
    size = cost(shrink(net, off_by_mode(net))[0], x)  # compact also fuses linear maps, and may come out below
    assert cost(compact(net), x).macs <= size.macs
    assert {k: float(v) for k, v in expected.items()} == pytest.approx(vars(size), rel=1e-12)
    assert (size == cost(CASES[case][0](), x)) == (keep == 1.0)


@pytest.mark.parametrize("case", ["resnet14 with units", "vgg16 of MNIST", "resnet18 with units"])
def test_round_trip_through_a_file(case: str, tmp_path: Path) -> None:
    small, x = compact(drawn(case, 4)), torch.randn(2, *CASES[case][1])
    bp.save(small, tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(bp.load(tmp_path / "small.safetensors")(x), small(x))


@cases("resnet14 with units", "vgg16", "resnet50 with units")
def test_a_skipped_branch_and_a_multiplied_one_give_the_same_step(case: str) -> None:
    """Outputs and gradients in training mode; an activation that wrote over a by-pass would show here.

    Skipped branches have no gradient, multiplied ones zeros.
    """
    build, shape = CASES[case]
    bnn = bp.BayesianNet(build(), num_data=100).double().train()
    x = torch.randn(4, *shape).double()
    xi = bnn.sample_gates(x)
    xi[:, : bnn.num_branches] = (torch.arange(bnn.num_branches) % 2).double()
    results = []
    for skip in (False, True):
        bnn.zero_grad()
        outputs = bnn(x, xi, skip=skip)
        outputs.square().sum().backward()
        weights = [(n, p) for n, p in bnn.net.named_parameters() if not n.endswith("theta")]
        results.append((outputs, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in weights}))
    (first, gradients), (second, others) = results
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(others, gradients)
    assert any(bool((g == 0).all()) for g in gradients.values()) and any(bool(g.any()) for g in gradients.values())
