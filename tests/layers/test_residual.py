"""A branch whose gate is off is not computed."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import bayesprune as bp
from bayesprune.errors import GateError
from bayesprune.layers import Draw, Residual

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


class CountedLinear(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def drawn(block: Residual) -> Draw:
    draw = Draw([1])
    block.gate.connect(draw, 0)
    return draw


def flops(block: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        block(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("shortcut", [None, nn.Linear(3, 3)])
def test_values(shortcut: nn.Module | None) -> None:
    block = Residual(nn.Linear(3, 3), shortcut)
    bypass = X if shortcut is None else shortcut(X)
    draw = drawn(block)
    torch.testing.assert_close(block(X), bypass + block.body(X), rtol=0, atol=0)
    for known in ((), (False,)):
        with draw.use(torch.zeros(1), known):
            torch.testing.assert_close(block(X), bypass, rtol=0, atol=0)
    for known in ((), (True,)):
        with draw.use(torch.ones(1), known):
            torch.testing.assert_close(block(X), bypass + block.body(X), rtol=0, atol=0)
    with draw.use(torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]])):
        expected = bypass + block.body(X) * torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]])
        torch.testing.assert_close(block(X), expected, rtol=0, atol=0)


def test_a_branch_known_to_be_off_is_not_called_and_gets_no_gradient() -> None:
    block = Residual(CountedLinear(3, 3))
    draw = drawn(block)
    x = X.clone().requires_grad_()
    with draw.use(torch.zeros(1), [False]):
        block(x).sum().backward()
    assert block.body.calls == 0
    assert all(p.grad is None for p in block.parameters())
    assert torch.equal(x.grad, torch.ones_like(X))
    with draw.use(torch.ones(1), [True]):
        block(x).sum().backward()
    assert block.body.calls == 1 and block.body.weight.grad is not None


def test_a_branch_that_is_off_but_not_known_to_be_is_computed_so_that_its_gate_has_a_derivative() -> None:
    block = Residual(CountedLinear(3, 3))
    xi = torch.zeros(1, requires_grad=True)
    with drawn(block).use(xi):
        block(X).sum().backward()
    assert block.body.calls == 1
    torch.testing.assert_close(xi.grad, block.body(X).sum().detach()[None])


def test_by_mode_a_branch_at_a_half_or_less_is_not_called() -> None:
    for theta, calls in ((0.5, 0), (0.6, 1)):
        block = Residual(CountedLinear(3, 3), theta=theta)
        block.eval()(X)
        assert block.body.calls == calls


def test_no_multiplication_is_spent_on_a_branch_that_is_off() -> None:
    block = Residual(nn.Linear(3, 3))
    draw = drawn(block)
    with draw.use(torch.zeros(1), [False]):
        assert flops(block, X) == 0
    with draw.use(torch.ones(1), [True]):
        assert flops(block, X) == 2 * 5 * 3 * 3


def test_shapes_that_differ_are_refused_with_what_to_do() -> None:
    message = r"the branch gives shape \(5, 4\), its by-pass \(5, 3\); pass shortcut="
    with pytest.raises(GateError, match=message):
        Residual(nn.Linear(3, 4))(X)
    assert Residual(nn.Linear(3, 4), nn.Linear(3, 4))(X).shape == (5, 4)


def test_shapes_that_differ_are_refused_before_training_starts() -> None:
    """A convolution that halves the map in front of a by-pass that does not: the first forward pass of `fit`."""
    branch = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4))
    net = nn.Sequential(Residual(branch, nn.Conv2d(2, 4, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    bnn = bp.BayesianNet(net, num_data=6)
    data = TensorDataset(torch.randn(6, 2, 8, 8), torch.zeros(6, dtype=torch.long))
    message = r"gives shape \(1, 4, 4, 4\), its by-pass \(1, 4, 8, 8\); pass shortcut= a linear map"
    with pytest.raises(GateError, match=message):
        bp.fit(bnn, DataLoader(data, batch_size=3), epochs=1)


def test_broadcasting_is_not_mistaken_for_a_fit() -> None:
    with pytest.raises(GateError, match=r"\(5, 1\)"):
        Residual(nn.Linear(3, 1))(X)


def test_nested_branches_each_follow_their_gate() -> None:
    inner = Residual(CountedLinear(3, 3))
    outer = Residual(nn.Sequential(CountedLinear(3, 3), inner))
    draw = Draw([1, 1])
    outer.gate.connect(draw, 0)
    inner.gate.connect(draw, 1)
    for known, calls in (([False, True], (0, 0)), ([True, False], (1, 0)), ([True, True], (1, 1))):
        outer.body[0].calls = inner.body.calls = 0
        with draw.use(torch.tensor(known, dtype=torch.float32), known):
            outer(X)
        assert (outer.body[0].calls, inner.body.calls) == calls
