"""Sums whose terms begin at different tensors: one term is a branch, and what is read in one place alone gets gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import Residual, gates_of
from tests.conversion.small import distance, images, switch_off


class Cell(nn.Module):
    """Maps of two sizes, brought together twice; the sum of both is read in one place, and by a pool in another."""

    def __init__(self, several: bool):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, stride=2, padding=1)
        self.up, self.wide, self.several = nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 5, padding=2), several
        self.behind, self.head = nn.Conv2d(5, 4, 1), nn.Linear(5 + 4 + 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        small = self.second(x).relu()
        together = self.wide(x) + F.interpolate(self.up(small), scale_factor=2)
        behind = self.behind(together).relu()
        beside = F.max_pool2d(x, 3, 1, (1, 1), 1, False) + self.wide(x) if self.several else x
        return self.head(torch.cat([part.mean((2, 3)) for part in (beside, behind, small)], 1))


def test_a_term_is_a_branch_and_a_sum_that_one_layer_reads_has_units(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Cell(several=False).double().eval(), images()
    net = bp.convert(model, example_input=x)
    assert {name: gate.size for name, gate in gates_of(net).items()} == {
        "first_gate": 5,
        "second_gate": 5,
        "residual": 1,
        "wide_gate": 5,
        "behind_gate": 4,
    }
    block = net.get_submodule("residual")
    assert isinstance(block, Residual) and "wide" in dict(block.body.named_modules())  # of more weights than the other
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    left = int(gates_of(net)["wide_gate"].mode().sum())
    assert small.get_submodule("up").out_channels == small.get_submodule("behind").in_channels == left < 5
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))
    with torch.no_grad():
        gates_of(net)["residual"].theta.zero_()
    off = bp.compact(net, example_input=x)
    assert not any("wide" in name for name, _ in off.named_modules()) and distance(off(x), net(x)) < 1e-12


def test_a_layer_that_is_called_twice_is_no_branch_of_its_own_and_maxima_are_saved(tmp_path: Path) -> None:
    """Places of maxima are not asked for, if this is said by position."""
    torch.manual_seed(0)
    model, x = Cell(several=True).double().eval(), images()
    net = bp.convert(model, example_input=x)
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(x), small(x))


class Two(nn.Module):
    """Something that is computed of layers and of two inputs."""

    def __init__(self, function: Callable[[Two, Tensor, Tensor], Tensor]):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.place, self.function = nn.Parameter(torch.randn(1, 4, 6)), function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.d(self.c(self.function(self, x, y)).relu()).mean(1)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x, y: net.a(x) + net.b(y),  # both begin at inputs
        lambda net, x, y: torch.relu(net.a(x) * y) + net.place,  # no term of an example: one for all
        lambda net, x, y: (net.a(x) @ net.b(y).mT + x @ y.mT).softmax(-1) @ x,  # of scores none is left out
    ],
)
def test_terms_that_are_no_branches(function: Callable[[Two, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Two(function).double().eval(), tuple(torch.randn(2, 3, 4, 6).double())
    net = bp.convert(model, example_input=x, inputs=True)
    assert not any(isinstance(module, Residual) for module in net.modules())
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(*x), net(*x)) < 1e-12
