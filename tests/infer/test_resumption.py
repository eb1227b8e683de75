"""A pass resumed at the block of one gate: the same numbers as a whole pass, and only what lies behind is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, paired_differences
from bayesprune.infer.resumption import Resumption
from bayesprune.layers import Gate, Residual
from tests.infer import nets
from tests.infer.nets import Case

MACS = 4 * 4 * nets.ROWS


class Skip(nn.Module):
    """A gate whose tail also needs what was computed before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.gate = Gate(1, per_batch=True)

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.relu(self.first(x))
        return self.last(stream + self.gate(torch.relu(self.body(stream))))


def nested() -> nn.Module:
    """A branch within a branch, and one behind both."""
    inner = nn.Sequential(Residual(nn.Linear(4, 4)), nn.Tanh())
    return nn.Sequential(nn.Linear(3, 4), Residual(inner), nn.Tanh(), Residual(nn.Linear(4, 4)), nn.Linear(4, 3))


def with_input() -> nn.Module:
    class Net(nn.Module):
        """The input is needed once more behind the block."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.last = nn.Linear(3, 4), Residual(nn.Linear(4, 4)), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.block(torch.tanh(self.first(x))), x], 1))

    return Net()


def layer_gates() -> nn.Module:
    return nn.Sequential(layers.Linear(3, 4, gate="layer"), nn.Tanh(), Gate(1, per_batch=True), nn.Linear(4, 3))


BUILDS = [nets.branches, nets.mixed, nets.shared_units, nested, with_input, layer_gates, Skip]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_flipped_gate_gives_what_a_whole_pass_gives(build, training: bool) -> None:
    case = Case(build)
    case.net.train(training)
    torch.manual_seed(0)
    for _ in range(8):
        xi = case.net.sample_gates(case.x)
        shared = range(case.net.num_shared)
        objective = case.objective
        objective(xi, skip=True, watch=shared)
        for s in shared:
            flipped = xi.clone()
            flipped[:, s] = 1 - flipped[:, s]
            expected = case.net.likelihood.nll(case.net(case.x, flipped), case.y)
            torch.testing.assert_close(objective.flipped(s), expected, rtol=0, atol=1e-12)


def test_which_passes_can_be_resumed() -> None:
    def resumable(build) -> list[bool]:
        net = Case(build).net
        return [behind is not None for behind in net.resumption.behind]

    assert resumable(nets.branches) == [True] * 5
    assert resumable(nets.mixed) == [True] * 5  # three branches, the units within the second, those between
    assert resumable(nested) == [True] * 3
    assert resumable(with_input) == [True]
    assert resumable(Skip) == [False]


def macs(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2


def test_only_what_lies_behind_the_gate_is_computed() -> None:
    """Four equal blocks and a last one, of 96 multiply-adds each for the batch, and an output layer of 72."""
    case = Case(nets.branches, (1.0,))
    ones = torch.ones(1, 5).double()
    for s in range(5):
        objective = case.objective
        objective(ones, skip=True, watch=[s])
        assert macs(lambda s=s, objective=objective: objective.flipped(s)) == (4 - s) * MACS + 72
    objective = case.objective
    off = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]]).double()
    objective(off, skip=True, watch=[1])
    assert macs(lambda: objective.flipped(1)) == 3 * MACS + 72  # its own block, and the two behind that are on


def test_a_branch_that_is_off_costs_nothing_forward_and_backward() -> None:
    """Forward k of 5 blocks, backward twice that (weights and inputs), but for the first layer's inputs."""
    case = Case(nets.branches, (0.5,))
    fixed = 3 * 4 * nets.ROWS + 4 * 3 * nets.ROWS
    for values in ([1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]):
        xi = torch.tensor([values]).double()
        assert macs(lambda xi=xi: case.objective(xi, skip=True)) == fixed + sum(values) * MACS
        loss = case.objective(xi, skip=True).mean()
        case.net.zero_grad()
        assert macs(loss.backward) == 3 * 4 * nets.ROWS + 2 * (4 * 3 * nets.ROWS) + 2 * sum(values) * MACS
        computed = [any(p.grad is not None for p in block.body.parameters()) for block in list(case.net.net)[1:6]]
        assert computed == [bool(value) for value in values]


def test_the_branches_that_a_resumed_pass_computes_are_counted() -> None:
    case = Case(nets.branches, (1.0,))
    objective = case.objective
    objective(torch.ones(1, 5).double(), skip=True, watch=[3])
    case.net.branch_evaluations = 0
    objective.flipped(3)
    assert case.net.branch_evaluations == 1  # its own is off now, the one behind it is on


def test_resumed_passes_leave_no_trace() -> None:
    case = Case(nets.normalised_branches, (0.5,))
    case.net.train()
    objective = case.objective
    objective(torch.ones(1, 2).double(), skip=True, watch=[0])
    before = [buffer.clone() for buffer in case.net.net.buffers()]
    random = torch.get_rng_state()
    assert not objective.flipped(0).requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, case.net.net.buffers(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.net.modules())


def test_what_follows_the_block_sees_the_same_dropout_masks_whether_it_is_on_or_off() -> None:
    """The second branch is the same function in both passes, so a first branch that adds 0 makes no difference."""
    torch.manual_seed(0)

    def body() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5))

    net = nn.Sequential(nn.Linear(3, 4), Residual(body()), Residual(body()), nn.Linear(4, 3)).double()
    nn.init.zeros_(net[1].body[1].weight)
    nn.init.zeros_(net[1].body[1].bias)
    bnn = BayesianNet(net, num_data=10, prior=FlatteningPrior(torch.tensor(1.0))).double().train()
    x, y = torch.randn(5, 3).double(), torch.zeros(5, dtype=torch.long)
    for xi in ([1.0, 1.0], [0.0, 1.0]):
        objective = BatchObjective(bnn, x, y)
        losses = objective(torch.tensor([xi]).double(), skip=True, watch=[0])
        assert torch.equal(objective.flipped(0), losses.detach())


def test_they_are_made_for_the_mode_and_the_structure() -> None:
    case = Case(nets.branches)
    training = case.net.train().resumption
    assert case.net.resumption is training
    assert case.net.eval().resumption is not training
    case.net.replace(case.net.net, {name: torch.arange(len(p)) for name, p in case.net.gate_probs().items()})
    assert case.net.train().resumption is not training
    assert isinstance(training, Resumption)


def overwritten() -> nn.Module:
    """What follows the block writes over its input when the branch is off, through a view."""
    return nn.Sequential(
        nn.Linear(3, 4), Residual(nn.Linear(4, 4)), nn.Identity(), nn.ReLU(inplace=True), nn.Linear(4, 3)
    )


class Scaled(nn.Module):
    """A forward pass with an argument that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(3, 4), Residual(nn.Linear(4, 4)), nn.Linear(4, 3)
        self.units = Gate(4)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.last(self.units(torch.tanh(self.block(self.first(x))))) * scale


def overwritten_units() -> nn.Module:
    """Activations write over what linear layers, gated or not, give."""
    return nn.Sequential(
        Gate(3), nn.Linear(3, 5), nn.ELU(inplace=True), layers.Linear(5, 4, gate="unit"), nn.ReLU(inplace=True),
        nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3),
    )  # fmt: skip


@pytest.mark.parametrize("build", [overwritten, overwritten_units, Scaled])
def test_differences_where_resuming_takes_care(build) -> None:
    case = Case(build)
    for value in (0.0, 1.0):
        xi = torch.full((1, case.net.num_gates), value).double()
        mean, _ = paired_differences(case.net, case.x, case.y, xi)
        for s in range(case.net.num_gates):
            on, off = xi.clone(), xi.clone()
            on[:, s], off[:, s] = 1.0, 0.0
            torch.testing.assert_close(mean[s], case.mean_loss(on) - case.mean_loss(off))
