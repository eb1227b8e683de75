"""Gates along any dimensions of tensors of any rank: what is left computes what the gated network computes."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError, TraceError
from bayesprune.graph import check_gates, gates_of
from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate
from bayesprune.pruning import ExpectedCost, compact, cost, shrink
from tests.pruning.verify import off_by_mode


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def some_off(net: nn.Module, seed: int) -> None:
    """Switch some, but not all, entries of every gate off."""
    generator = torch.Generator().manual_seed(seed)
    for gate in gates_of(net).values():
        theta = (torch.rand(gate.size, generator=generator) < 0.6).float()
        theta[int(torch.randint(gate.size, (1,), generator=generator))] = 1.0
        with torch.no_grad():
            gate.theta.copy_(theta)


def verify(net: nn.Module, x: Tensor, example: Tensor | None = None) -> nn.Module:
    """Compact and shrunken network give what the gated one gives; no entry that is off is left in the compact one."""
    net, x = net.double().eval(), x.double()
    check_gates(net, example_input=example)
    plain = compact(net, example_input=example)
    smaller, index = shrink(net, off_by_mode(net), example_input=example)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), net(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(smaller(x), net(x), rtol=0, atol=1e-10)
    old = dict(net.named_parameters())
    for name, p in smaller.named_parameters():
        if name not in index.folded:
            assert torch.equal(index.select(name, old[name]), p)
    return plain


# the first case: two gates along two dimensions ---------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(1, -1), (-1, 1), (1, 2), (-2, 2)])
@pytest.mark.parametrize("sizes", [(8, 8), (5, 8)])
def test_two_gates_on_one_tensor(sizes: tuple[int, int], first: int, second: int) -> None:
    size = {1: sizes[0], -2: sizes[0], 2: sizes[1], -1: sizes[1]}
    net = nn.Sequential(
        Gate(size[first], dim=first), Gate(size[second], dim=second), nn.Flatten(), nn.Linear(math.prod(sizes), 3)
    )
    x = torch.randn(4, *sizes)
    with torch.no_grad():
        net[0].theta[0], net[1].theta[1:3] = 0.0, 0.0
    plain = verify(net, x, x)
    assert plain.get_submodule("3").in_features == (size[first] - 1) * (size[second] - 2)
    bnn = BayesianNet(net, num_data=10, example_input=x.double()).eval()
    torch.testing.assert_close(compact(bnn)(x.double()), bnn.net(x.double()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(8, 8), (5, 8)])
def test_two_gates_whose_tensor_has_an_unknown_rank(sizes: tuple[int, int]) -> None:
    net = nn.Sequential(Gate(sizes[0]), nn.ReLU(), Gate(sizes[1], dim=-1), nn.Flatten(), nn.Linear(math.prod(sizes), 3))
    for refuse in (lambda: check_gates(net), lambda: BayesianNet(net, num_data=5)):
        with pytest.raises(GateError, match="along dimension 1 and then -1 of a tensor of unknown rank; pass exam"):
            refuse()


# the second case: a rank that is assumed is the only one that is taken ----------------------------------------------


def test_the_rank_that_was_assumed_is_enforced() -> None:
    net = nn.Sequential(Gate(8), nn.ReLU(), nn.Linear(8, 3))
    bnn = BayesianNet(net, num_data=10).eval()
    bnn(torch.randn(4, 8))
    for shape in ((4, 8, 8), (4, 8, 1)):
        with pytest.raises(GateError, match=r"input of shape \(4, 8, .\), but was taken to gate 2 dim.*example"):
            bnn(torch.randn(shape))
    with pytest.raises(GateError, match="its features along another dimension than 2 reads"):
        BayesianNet(nn.Sequential(Gate(8), nn.ReLU(), nn.Linear(8, 3)), num_data=10, example_input=torch.randn(4, 8, 8))
    with pytest.raises(GateError, match="gates has its features along another dimension than 1 reads"):
        check_gates(nn.Sequential(Gate(8), nn.Linear(8, 3), nn.Flatten()), example_input=torch.randn(4, 8, 8))


class Joined(nn.Module):
    """A gate along dimension 1 and a layer along the last one: two axes of one tensor, unless it is a matrix."""

    def __init__(self, function, outputs: int) -> None:
        super().__init__()
        self.gate, self.layer, self.head = Gate(8), layers.Linear(8, 8, gate="unit"), nn.Linear(outputs, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.gate(x), torch.tanh(self.layer(x))))


@pytest.mark.parametrize(
    ("function", "outputs"),
    [
        (torch.mul, 8), (torch.add, 8), (lambda a, b: torch.cat([a, b], -1), 16),
        (lambda a, b: torch.cat([a, b], 1), 16), (lambda a, b: torch.cat([b, a], 1), 16),
    ],
)  # fmt: skip
def test_the_rank_that_two_tensors_were_assumed_to_have_is_enforced(function, outputs: int) -> None:
    net = Joined(function, outputs)
    some_off(net, 1)
    verify(net, torch.randn(4, 8))
    with pytest.raises(
        GateError, match=r"input of shape \(4, 8, 8\), but was taken to gate 2 dimensions; pass example"
    ):
        net(torch.randn(4, 8, 8).double())
    refusals = "of another shape|does not join known features along their dimension|does not go through Joined"
    with pytest.raises((GateError, TraceError), match=refusals):
        check_gates(net, example_input=torch.randn(4, 8, 8))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.PReLU(6)])
def test_the_assumption_of_a_normalisation_is_enforced_by_the_gates_behind(norm: nn.Module) -> None:
    """The rows of the linear layer go only if the normalisation is along its features: not so for (B, 6, 6)."""
    net = nn.Sequential(nn.Linear(3, 6), norm, nn.ReLU(), Gate(6), nn.Flatten(), nn.Linear(6, 2))
    check_gates(net)
    assert net[3].rank == 2
    deep = nn.Sequential(*net[:5], nn.Linear(36, 2))
    x = torch.randn(4, 6, 3)
    some_off(deep, 0)
    verify(deep, x, x)
    assert deep[3].rank == 3


def test_no_rank_is_enforced_where_none_was_assumed() -> None:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2))
    bnn = BayesianNet(net, num_data=5)
    assert bnn(torch.randn(2, 3)).shape == (2, 2) and bnn(torch.randn(2, 7, 3)).shape == (2, 7, 2)


def test_wrong_size() -> None:
    net = nn.Sequential(nn.Linear(3, 8), Gate(5), nn.Flatten(), nn.Linear(40, 2))
    with pytest.raises(GateError, match=r"has 5 entries, but what it gates has 8 .*, if it runs along another .* exa"):
        check_gates(net)
    x = torch.randn(4, 5, 3)
    some_off(net, 0)
    verify(net, x, x)


def test_example_that_does_not_fit() -> None:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.Linear(4, 2))
    with pytest.raises(TraceError, match=r"^example_input of shape \(4, 5\) does not go through Sequential: [^\n]*$"):
        BayesianNet(net, num_data=3, example_input=torch.randn(4, 5))
    with pytest.raises(GateError, match="received an input of shape"):
        check_gates(nn.Sequential(Gate(3), nn.Linear(4, 2)), example_input=torch.randn(4, 4))


def test_the_example_changes_nothing() -> None:
    """Neither statistics, nor random numbers, nor modes."""
    net = nn.Sequential(nn.BatchNorm1d(3), layers.Linear(3, 4, gate="unit"), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    check_gates(net, example_input=torch.randn(1, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state()) and all(m.training for m in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# laws ---------------------------------------------------------------------------------------------------------------


def random_axes(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network on inputs of rank 2 to 5 with up to four gates along random dimensions of one tensor."""
    rng = random.Random(seed)
    rank = rng.randint(2, 5)
    shape = tuple(rng.randint(2, 5) for _ in range(rank - 1))
    parts: list[nn.Module] = []
    for dim in rng.sample(range(1, rank), rng.randint(1, rank - 1)):
        parts.append(Gate(shape[dim - 1], dim=rng.choice([dim, dim - rank])))
        parts.append(rng.choice([nn.ReLU(), nn.Tanh(), nn.Identity(), nn.Dropout(0.5), nn.LeakyReLU()]))
    parts += [rng.choice([nn.Flatten(), Apply(lambda x: torch.flatten(x, 1)), Apply(lambda x: x.view(x.size(0), -1))])]
    return nn.Sequential(*parts, nn.Linear(math.prod(shape), 3)), shape


@pytest.mark.parametrize("seed", range(24))
def test_random_gates_on_one_tensor(seed: int) -> None:
    torch.manual_seed(seed)
    net, shape = random_axes(seed)
    some_off(net, seed)
    x = torch.randn(3, *shape)
    plain = verify(net, x, x)
    left = math.prod(shape)
    for gate in gates_of(net).values():
        left = left * int(gate.mode().sum()) // gate.size
    assert plain.get_submodule(str(len(net) - 1)).in_features == left


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dims", [(-1,), (2, 3), (3, 1), (1, 2, 3), (-1, -2)])
def test_maps(dims: tuple[int, ...], seed: int) -> None:
    """Between convolutions and a linear layer: units, rows and columns of the maps."""
    torch.manual_seed(seed)
    size = {1: 5, 2: 4, -2: 4, 3: 6, -1: 6}
    gates = [Gate(size[dim], dim=dim) for dim in dims]
    net = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), *gates, nn.Flatten(), nn.Linear(120, 3))
    some_off(net, seed)
    x = torch.randn(3, 2, 4, 6)
    verify(net, x, x)


@pytest.mark.parametrize("seed", range(2))
def test_channels_and_space_before_a_convolution(seed: int) -> None:
    """A gate on space in front of a convolution cannot mean removal, one on channels does."""
    net = nn.Sequential(nn.Conv2d(2, 5, 1), Gate(6, dim=-1), Gate(5), nn.Conv2d(5, 2, 1))
    with pytest.raises(GateError, match=r"gate '1': .* along another dimension than 3 reads"):
        check_gates(net, example_input=torch.randn(1, 2, 4, 6))
    net = nn.Sequential(Gate(2), nn.Conv2d(2, 5, 1), nn.ReLU(), Gate(5), nn.Conv2d(5, 2, 1))
    some_off(net, seed)
    x = torch.randn(3, 2, 4, 6)
    verify(net, x)
    verify(net, x, x)


def test_sequences() -> None:
    """Units of a layer on sequences, and gates along time before everything is flattened."""
    net = nn.Sequential(
        Gate(3, dim=-1), layers.Linear(3, 4, gate="unit"), nn.ReLU(), Gate(5, dim=1), nn.Flatten(), nn.Linear(20, 2)
    )
    x = torch.randn(3, 5, 3)
    for seed in range(3):
        some_off(net, seed)
        verify(net, x, x)
    bnn = BayesianNet(net.float(), num_data=10, example_input=x)
    assert bnn.num_gates == 12 and cost(bnn, x).params == 4 * 3 + 4 + 42
    F.relu(bnn(x, bnn.theta.detach())).sum().backward()


def test_expected_cost_along_two_dimensions() -> None:
    """The number of columns is the product of what is left along either dimension."""
    net, x = nn.Sequential(Gate(5), Gate(8, dim=-1), nn.Flatten(), nn.Linear(40, 3)), torch.randn(2, 5, 8)
    BayesianNet(net, num_data=5, example_input=x)
    expected = ExpectedCost(net, x)
    theta = {"0": torch.rand(5, dtype=torch.float64), "1": torch.rand(8, dtype=torch.float64)}
    columns = float(theta["0"].sum() * theta["1"].sum())
    found = {name: float(value) for name, value in expected(theta).items()}
    assert found == pytest.approx({"params": 3 * columns + 3, "macs": 3 * columns}, rel=1e-12)


def test_a_gate_on_a_whole_term_that_the_other_one_is_broadcast_to() -> None:
    """Without the term the sum would have another shape."""
    net, x = nn.Sequential(nn.Linear(6, 6), Sum(), nn.Linear(6, 2)), torch.randn(4, 5, 6)
    with pytest.raises(GateError, match=r"gate '1.gate'.* is added to a tensor of shape .1, 1, 6.* expand"):
        check_gates(net, example_input=x)
    net[1].expand = True
    verify(net, x, x)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.expand = Gate(1, per_batch=True, theta=0.0), False

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return (mean.expand(-1, 5, -1) if self.expand else mean) + self.gate(x)
