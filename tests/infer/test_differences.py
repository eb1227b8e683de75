"""Exact paired differences, and objectives whose further passes leave no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import DataError
from bayesprune.infer import BayesianNet, GateELBO, get_estimator, paired_differences
from bayesprune.layers import Residual
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import enumerated_gradient


def per_example(case: Case, xi: Tensor, s: int, value: float) -> Tensor:
    xi = xi.clone()
    xi[..., s] = value
    return case.net.likelihood.nll(case.net(case.x, xi), case.y).detach()


@pytest.mark.parametrize("name", ["units", "branches", "mixed", "linear_units"])
@pytest.mark.parametrize("thetas", [(0.3, 0.7, 0.5), (0.0, 1.0)])
def test_differences_of_every_gate_and_their_standard_errors(name: str, thetas: tuple[float, ...]) -> None:
    case = Case(getattr(nets, name), thetas)
    xi = case.net.sample_gates(case.x)
    mean, error = paired_differences(case.net, case.x, case.y, xi)
    for s in range(case.net.num_gates):
        differences = per_example(case, xi, s, 1.0) - per_example(case, xi, s, 0.0)
        torch.testing.assert_close(mean[s], differences.mean())
        torch.testing.assert_close(error[s], differences.std() / nets.ROWS**0.5)


@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_at_a_vertex_they_are_the_enumerated_gradient(name: str) -> None:
    """There the other gates are certain: the mean difference is ∂L/∂θ_s − ρ_s."""
    case = Case(getattr(nets, name), (1.0, 0.0, 1.0))
    mean, _ = paired_differences(case.net, case.x, case.y, case.net.sample_gates(case.x))
    torch.testing.assert_close(mean, enumerated_gradient(case) - case.net.price)


def test_one_row_is_that_row_for_every_example() -> None:
    case = Case(nets.mixed)
    xi = case.net.sample_gates(case.x)[:1]
    for actual, expected in zip(
        paired_differences(case.net, case.x, case.y, xi),
        paired_differences(case.net, case.x, case.y, xi.repeat(nets.ROWS, 1)),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def test_a_single_example_has_a_difference_and_no_error() -> None:
    """The last batch of an epoch may hold one; NaN would spread to θ."""
    case = Case(nets.units)
    xi = case.net.sample_gates(case.x)
    rows = [paired_differences(case.net, case.x[i : i + 1], case.y[i : i + 1], xi[i : i + 1]) for i in range(nets.ROWS)]
    assert not any(error.any() for _, error in rows)
    torch.testing.assert_close(
        torch.stack([mean for mean, _ in rows]).mean(0), paired_differences(case.net, case.x, case.y, xi)[0]
    )


def test_gates_are_flipped_in_portions_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(nets.units)
    xi = case.net.sample_gates(case.x)
    expected, _ = paired_differences(case.net, case.x, case.y, xi)
    for elements in (1, 50, 10**6):  # one pair at a time, some, all
        monkeypatch.setattr("bayesprune.infer.flips.ELEMENTS", elements)
        torch.testing.assert_close(paired_differences(case.net, case.x, case.y, xi)[0], expected)


def columns() -> nn.Module:
    """Gates whose flips change one column: before a linear layer, and before one with gates of its own."""
    return nn.Sequential(
        layers.Gate(3), layers.Linear(3, 4, gate="unit"), nn.Tanh(), nn.Dropout(0.5),
        layers.Linear(4, 5, gate="unit"), nn.ReLU(inplace=True), layers.Gate(5), nn.Linear(5, 2),
        nn.LeakyReLU(0.5, inplace=True), nn.Linear(2, 3),
    )  # fmt: skip


class TwoReaders(nn.Module):
    """What a gate multiplies is read by two linear layers, one behind a pointwise function."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.first, self.second = layers.Gate(3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        return self.first(x) + self.second(torch.tanh(x))


@pytest.mark.parametrize("build", [columns, TwoReaders, nets.units])
@pytest.mark.parametrize("slab", ["point", "normal"])
def test_flips_of_a_column_are_those_of_whole_passes(build: Callable[[], nn.Module], slab: str) -> None:
    """One draw of the weights serves all passes; seeded alike, whole passes see the same."""
    torch.manual_seed(3)
    net = BayesianNet(build().double(), num_data=50, prior=FlatteningPrior(1.0), slab=slab).eval()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    xi = torch.bernoulli(torch.full((6, net.num_gates), 0.6, dtype=torch.float64))
    torch.manual_seed(4)
    found, _ = paired_differences(net, x, y, xi)
    torch.manual_seed(4)
    with net.drawn_weights(), torch.no_grad():
        for s in range(net.num_gates):
            on, off = xi.clone(), xi.clone()
            on[:, s], off[:, s] = 1.0, 0.0
            expected = net.likelihood.nll(net(x, on), y) - net.likelihood.nll(net(x, off), y)
            torch.testing.assert_close(found[s], expected.mean())
    assert bool((found != 0).any())


def test_a_flipped_column_costs_no_matrix_product() -> None:
    """One pass of the batch, and of each flip what lies behind the first linear layer.

    Where the flipped entry is 0 there is no difference, and nothing is computed.
    """
    net = BayesianNet(
        nn.Sequential(layers.Gate(50), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 3)), num_data=50
    ).eval()
    x, y = torch.randn(4, 50), torch.zeros(4, dtype=torch.long)
    for pairs in (4 * 50, 3 * 50 - 10, 0):
        x.view(-1)[pairs:] = 0
        with FlopCounterMode(display=False) as counter:
            found, _ = paired_differences(net, x, y, torch.ones(4, 50))
        assert counter.get_total_flops() == 2 * (4 * (50 * 20 + 20 * 3) + pairs * 20 * 3)
    assert not bool(found.any())


def statistics(case: Case) -> list[Tensor]:
    return [buffer.clone() for buffer in case.net.net.buffers()]


@pytest.mark.parametrize("training", [True, False])
def test_they_leave_the_network_and_the_random_numbers_as_they_were(training: bool) -> None:
    case = Case(nets.normalised_branches)
    case.net.train(training)
    before, random = statistics(case), torch.get_rng_state()
    xi = torch.ones(1, 2).double()
    first, _ = paired_differences(case.net, case.x, case.y, xi)
    second, _ = paired_differences(case.net, case.x, case.y, xi)
    assert torch.equal(first, second)  # eval mode: no dropout
    assert case.net.training == training and case.net.net[1].body.training == training
    assert all(torch.equal(a, b) for a, b in zip(statistics(case), before, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert not first.requires_grad and case.net.theta.grad is None


def test_training_mode_comes_back_after_an_error() -> None:
    case = Case(nets.normalised_branches)
    with pytest.raises(DataError, match="paired_differences: the network does not take inputs of shape"):
        paired_differences(case.net, case.x[:, :2], case.y, torch.ones(1, 2).double())
    assert case.net.training


@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 2)])
def test_gate_values_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    case = Case(nets.normalised_branches)
    with pytest.raises(DataError, match=r"xi must have shape \(1, 2\) or"):
        paired_differences(case.net, case.x, case.y, torch.ones(shape).double())
    with pytest.raises(DataError, match="one flag for each of 2 branches, got 1"):
        paired_differences(case.net, case.x, case.y, torch.ones(1, 2).double(), [True])


# further passes -------------------------------------------------------------------------------------------------------


def test_again_sees_the_dropout_mask_of_the_first_pass() -> None:
    case = Case(nets.normalised_branches)
    xi = torch.ones(1, 2).double()
    objective = case.objective
    first = objective(xi).detach()
    for _ in range(3):
        torch.rand(7)  # whatever else draws in between
        assert torch.equal(objective.again(xi), first)
    assert not torch.equal(objective(xi).detach(), first)


def test_again_leaves_running_statistics_random_numbers_and_no_graph() -> None:
    case = Case(nets.normalised_branches)
    xi = torch.ones(1, 2).double()
    objective = case.objective
    fresh = statistics(case)
    objective(xi)
    moved, random = statistics(case), torch.get_rng_state()
    assert not all(torch.equal(a, b) for a, b in zip(fresh, moved, strict=True))
    identities = [id(buffer) for buffer in case.net.net.buffers()]
    assert not objective.again(1 - xi).requires_grad
    objective.again(xi)
    assert all(torch.equal(a, b) for a, b in zip(statistics(case), moved, strict=True))
    assert [id(buffer) for buffer in case.net.net.buffers()] == identities
    assert torch.equal(torch.get_rng_state(), random)


def test_a_skipped_branch_does_not_update_its_statistics() -> None:
    case = Case(nets.normalised_branches)
    names = [name for name, _ in case.net.net.named_buffers()]
    before = dict(zip(names, statistics(case), strict=True))
    case.objective(torch.tensor([[1.0, 0.0]]).double(), skip=True)
    changed = {name.split(".")[0] for name, b in case.net.net.named_buffers() if not torch.equal(b, before[name])}
    assert changed == {"1"}


@pytest.mark.parametrize("estimator", ["paired", "auto", "disarm"])
@pytest.mark.parametrize("path", ["fast", "pyro"])
def test_gradients_flow_through_the_first_pass_after_a_further_one(estimator: str, path: str) -> None:
    """To restore running statistics must not invalidate the graph of the first pass."""
    case = Case(nets.normalised_branches)
    case.net.train()
    if path == "fast":
        xi = torch.ones(1, 2).double()
        loss = get_estimator(estimator)(case.objective, case.net.theta, xi, case.net.price)
    else:
        loss = GateELBO(estimator).differentiable_loss(case.net.model, case.net.guide, case.x, case.y)
    loss.backward()
    assert torch.isfinite(case.net.theta.grad).all() and torch.isfinite(case.net.net[0].weight.grad).all()


def test_a_paired_difference_is_of_one_dropout_mask() -> None:
    """A branch of zero weights makes no difference, whatever is dropped elsewhere."""
    torch.manual_seed(0)
    idle = nn.Linear(4, 4)
    case = Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), Residual(idle), nn.Dropout(0.5), nn.Linear(4, 3))
    )
    with torch.no_grad():
        idle.weight.zero_()
        idle.bias.zero_()
    case.net.train()
    for _ in range(5):
        loss = get_estimator("paired")(case.objective, case.net.theta, torch.ones(1, 1).double(), case.net.price)
        (gradient,) = torch.autograd.grad(loss, case.net.theta)
        torch.testing.assert_close(gradient, case.net.price, rtol=0, atol=0)


SPELLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rows of the inputs": lambda x, h: h.reshape(x.shape[0], -1),
    "size of the inputs": lambda x, h: h.view(x.size(0), -1),
    "rows of the maps": lambda x, h: h.reshape(h.shape[0], -1),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_sizes_that_forward_asks_for_are_those_of_all_copies(spelling: str) -> None:
    class Net(nn.Module):
        def __init__(self, flat: Callable[[Tensor, Tensor], Tensor]):
            super().__init__()
            self.flat = flat
            self.maps, self.gate, self.head = nn.Conv1d(2, 4, 3), layers.Gate(4), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.flat(x, self.gate(torch.relu(self.maps(x)))))

    found = []
    for flat in (lambda x, h: h.flatten(1), SPELLINGS[spelling]):
        torch.manual_seed(0)
        bnn = BayesianNet(Net(flat), num_data=5)
        x, y = torch.randn(5, 2, 6), torch.tensor([0, 1, 2, 0, 1])
        found.append(paired_differences(bnn, x, y, torch.ones(5, 4))[0])
    assert torch.equal(*found)
