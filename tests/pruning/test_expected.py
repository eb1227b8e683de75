"""Expected cost against counts of pruned networks over all gate vectors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprune import compact, convert, layers
from bayesprune.errors import ConfigError
from bayesprune.graph import trace
from bayesprune.layers import Residual, gates_of
from bayesprune.pruning import ExpectedCost, cost
from tests.pruning.costed import (
    SHAPES,
    Joined,
    attention,
    branches,
    deep,
    depthwise,
    enumerated,
    example,
    grouped,
    nested,
    normalised_conv,
    normed,
    perceptron,
    probabilities,
    residual_conv,
    stream,
)

EXACT = [
    normalised_conv, depthwise, perceptron, branches, grouped, nested, normed, deep, attention, residual_conv, Joined,
]  # fmt: skip


@pytest.mark.parametrize("build", SHAPES)
def test_all_on_is_the_plain_cost(build: Callable[[], nn.Module]) -> None:
    net, x = build(), example(build)
    with torch.no_grad():
        for gate in gates_of(net).values():
            gate.theta.fill_(1.0)
    size = cost(net, x)
    expected = ExpectedCost(net, x)
    assert expected.total == {"params": size.params, "macs": size.macs}
    assert {name: float(value) for name, value in expected(probabilities(net, 1.0)).items()} == expected.total


@pytest.mark.parametrize("build", EXACT)
def test_mean_over_all_gate_vectors_in_which_no_layer_dies(build: Callable[[], nn.Module]) -> None:
    net, x = build(), example(build)
    theta = probabilities(net)
    found = ExpectedCost(net, x)(theta)
    assert (float(found["params"]), float(found["macs"])) == pytest.approx(enumerated(net, x, theta), rel=1e-9)


@pytest.mark.slow
def test_bound_where_a_layer_may_die() -> None:
    """Units are counted as needed with the largest, not the joint, probability of their readers: a lower bound here.

    In a dead layer, surgery keeps one structure, and the layers before it go: neither is in the expectation.
    """
    net, x = perceptron(), example(perceptron)
    theta = {name: torch.full_like(value, 0.6) for name, value in probabilities(net).items()}
    found = ExpectedCost(net, x)(theta)
    params, macs = enumerated(net, x, theta)
    assert 0.5 * params < float(found["params"]) < params
    assert 0.5 * macs < float(found["macs"]) < macs


def test_units_of_a_stream_count_until_its_other_writer_is_off() -> None:
    net, x = stream(), example(stream)
    on, off = torch.tensor([1.0]), torch.tensor([0.0])
    units = torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = ExpectedCost(net, x)
    for branch in (on, off):
        theta = {"0": units, "2": branch}
        params, macs = expected(theta).values()
        assert float(macs) == (2 * 3 + (2 * 4 + 4 * 2 if branch else 2 * 2))
        assert float(params) == float(macs) + 2 + 2 + (4 if branch else 0)


@pytest.mark.parametrize("build", [normalised_conv, perceptron, branches, stream, nested, deep])
def test_multilinear_while_a_structure_of_every_layer_is_on(build: Callable[[], nn.Module]) -> None:
    net, x = build(), example(build)
    expected, theta = ExpectedCost(net, x), probabilities(net)
    for name, value in theta.items():
        for s in range(1 if len(value) > 1 else 0, len(value)):

            def at(t: float, name: str = name, s: int = s) -> Tensor:
                moved = {n: v.clone() for n, v in theta.items()}
                moved[name][s] = t
                return torch.stack(list(expected(moved).values()))

            torch.testing.assert_close(at(0.3), 0.7 * at(0.0) + 0.3 * at(1.0), rtol=1e-5, atol=1e-4)


def test_the_network_is_left_as_it_was() -> None:
    net, x = normalised_conv().train(), example(normalised_conv)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ExpectedCost(net, x)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_branch_that_is_off_costs_nothing_whatever_it_is_made_of() -> None:
    """With one second an operation: a LayerNorm, a GELU, two layers and the sum of a branch go with its gate."""
    net, x = normed(), example(normed)
    names = [str(node.target) for node in trace(net).graph.nodes if node.op.startswith("call")]
    expected = ExpectedCost(net, x, ("latency",), [0.0 if name.endswith("gate") else 1.0 for name in names])
    assert expected.total == {"latency": 14.0}  # two layers, and for each branch by-pass, sum and four of its own
    on, off = torch.ones(1), torch.zeros(1)
    assert float(expected({"1": off, "2": on})["latency"]) == 14 - 5
    assert float(expected({"1": on, "2": off})["latency"]) == 14 - 5
    assert float(expected({"1": off, "2": off})["latency"]) == 4


def test_seconds_go_with_what_is_there() -> None:
    """A layer's with inputs times outputs, an activation's with its entries; a gate that stands alone has none."""
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2))
    expected = ExpectedCost(net, torch.randn(5, 3), ("latency", "params"), [8.0, 4.0, 2.0])
    found = expected({"0": torch.tensor([1.0, 0.5, 0.0, 0.5])})
    assert float(found["latency"]) == pytest.approx(8 * 0.5 + 4 * 0.5 + 2 * 0.5)
    assert float(found["params"]) == pytest.approx(2 * 4 + 2 * 2 + 2)


def test_what_an_operation_takes_however_narrow_stays_until_it_goes() -> None:
    net = nn.Sequential(nn.Linear(3, 3), Residual(nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.Linear(4, 3))))
    net.append(nn.Linear(3, 2))
    x = torch.randn(1, 3)
    names = [node.name for node in trace(net).graph.nodes if node.op.startswith("call")]
    seconds = {"_0": (8.0, 0.0), "_1_body_0": (6.0, 2.0), "_1_body_1": (5.0, 4.0), "_2": (1.0, 1.0)}
    whole, part = zip(*(seconds.get(name, (0.0, 0.0)) for name in names), strict=True)
    expected = ExpectedCost(net, x, ("latency",), whole, part)
    assert expected.total == {"latency": 20.0}
    half = {"1": torch.ones(1), "1.body.0": torch.full((4,), 0.5)}
    assert float(expected(half)["latency"]) == pytest.approx(20 - 0.5 * (4 + 1))
    assert float(expected(half | {"1": torch.zeros(1)})["latency"]) == pytest.approx(9)
    with pytest.raises(ConfigError, match=f"each of {len(names)} calls"):
        ExpectedCost(net, x, ("latency",), whole, part[:-1])


def test_a_gate_on_which_both_reader_and_writer_depend_counts_once() -> None:
    """The inner layer of a branch in a branch needs both gates: θ of the outer one is not squared."""
    net = nn.Sequential(nn.Linear(2, 2), Residual(nn.Sequential(Residual(nn.Linear(2, 2)), nn.Linear(2, 2))))
    net.append(nn.Linear(2, 1))
    theta = {"1": torch.tensor([0.25]), "1.body.0": torch.tensor([0.5])}
    macs = ExpectedCost(net, torch.randn(1, 2))(theta)["macs"]
    assert float(macs) == pytest.approx(4 + 2 + 0.25 * 4 + 0.25 * 0.5 * 4)


def test_parameters_of_a_module_that_is_called_twice_stay() -> None:
    """They are there as long as either call is; how often, is not asked: they count in full."""
    shared = nn.Linear(3, 3)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.one, self.two = shared, Residual(shared), Residual(shared)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    net, x = Twice(), torch.randn(1, 3)
    theta = {"one": torch.tensor([0.5]), "two": torch.tensor([0.25])}
    found = ExpectedCost(net, x)(theta)
    assert float(found["params"]) == 12
    assert float(found["macs"]) == pytest.approx(0.5 * 9 + 0.25 * 9)


def test_nothing_is_run_in_training_mode_and_no_random_number_is_used() -> None:
    net = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Flatten(), layers.Linear(18, 2))
    net.train()
    net[2].eval()
    before, random = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    ExpectedCost(net, torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0)), ("macs", "latency"))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net] == [True, True, False, True, True] and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Heads(nn.Module):
    """Attention that is written out, two heads of so many features."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.shape = (2, length)
        self.qkv, self.out = nn.Linear(4, 6 * length), nn.Linear(2 * length, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, *self.shape).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Counted(TorchDispatchMode):
    """Counts operations of torch."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return function(*args, **(kwargs or {}))


def test_features_that_a_view_puts_into_heads_count_once_and_together() -> None:
    calls, x = [], torch.randn(1, 5, 4)
    for length in (2, 9):
        net = convert(Heads(length), example_input=x)
        ((name, gate),) = gates_of(net).items()
        expected = ExpectedCost(net, x, traced=trace(net, x))
        with Counted() as mode:
            found = expected({name: torch.tensor([1.0, 0.3], dtype=torch.float64)})
        calls.append(mode.calls)
        sizes = []
        for value in (1.0, 0.0):
            gate.theta.data[1] = value
            sizes.append(cost(compact(net, example_input=x), x))
        for measure in ("params", "macs"):
            both, one = (getattr(size, measure) for size in sizes)
            assert float(found[measure]) == pytest.approx(0.3 * both + 0.7 * one, rel=1e-12)
    assert calls[0] == calls[1]
