"""Expected cost against counts of compacted networks over all gate vectors, and prices against its derivative."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.networks import lenet5, lenet300, resmlp
from bayesprune.pruning import CostPrice, ExpectedCost, compact, cost
from bayesprune.types import Cost


def normalised_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), Gate(3), nn.MaxPool2d(2),
        layers.Conv2d(3, 2, 3, gate="unit"), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        layers.Conv2d(1, 4, 3, gate="unit"), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(),
        nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(72, 2),
    )  # fmt: skip


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), Gate(3), layers.Linear(3, 3, gate="unit"), nn.ReLU(), layers.Linear(3, 2, gate="unit"),
        nn.ReLU(), nn.Linear(2, 2),
    )  # fmt: skip


def branches() -> nn.Module:
    inner = nn.Sequential(layers.Linear(4, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 4))
    return nn.Sequential(
        nn.Linear(3, 4), Residual(inner), Residual(nn.Linear(4, 4)),
        Residual(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), nn.Linear(4, 2, bias=False)), nn.Linear(2, 2),
    )  # fmt: skip


def stream() -> nn.Module:
    """Units that write where a branch writes as well: they go only together with it."""
    return nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU(), Residual(nn.Linear(4, 4)), nn.Linear(4, 2))


def grouped() -> nn.Module:
    """What the analysis cannot follow keeps its full cost."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.LayerNorm(144), layers.Linear(144, 3, gate="unit"),
        nn.PReLU(), nn.Linear(3, 2),
    )  # fmt: skip


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    lenet300: (1, 28, 28), lenet5: (1, 28, 28), resmlp: (1, 28, 28), normalised_conv: (1, 8, 8), depthwise: (1, 8, 8),
    perceptron: (3,), branches: (3,), stream: (3,), grouped: (2, 8, 8),
}  # fmt: skip


def example(build: Callable[[], nn.Module]) -> Tensor:
    return torch.randn(2, *SHAPES[build])


def probabilities(net: nn.Module, value: float | None = None) -> dict[str, Tensor]:
    """θ by gate: ``value``, or random numbers of which the first of every gate of several is 1, so that none dies."""
    thetas = {}
    for name, gate in gates_of(net).items():
        thetas[name] = torch.rand(gate.size) if value is None else torch.full((gate.size,), value)
        if value is None and gate.size > 1:
            thetas[name][0] = 1.0
    return thetas


def enumerated(net: nn.Module, x: Tensor, theta: dict[str, Tensor]) -> tuple[float, float]:
    """Mean cost of the compacted network over all gate vectors of positive probability."""
    gates = gates_of(net)
    names, flat = list(gates), torch.cat([theta[name] for name in gates]).double()
    free = [s for s in range(len(flat)) if flat[s] < 1]
    assert len(free) <= 8
    params = macs = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=len(free)):
        vector = torch.ones_like(flat)
        vector[free] = torch.tensor(bits, dtype=torch.float64)
        weight = float(torch.where(vector > 0, flat, 1 - flat).prod())
        with torch.no_grad():
            for name, part in zip(names, vector.split([gates[n].size for n in names]), strict=True):
                gates[name].theta.copy_(part)
        size = cost(compact(net), x)
        assert size.macs is not None
        params, macs = params + weight * size.params, macs + weight * size.macs
    return params, macs


@pytest.mark.parametrize("build", SHAPES)
def test_all_on_is_the_plain_cost(build: Callable[[], nn.Module]) -> None:
    net, x = build(), example(build)
    with torch.no_grad():
        for gate in gates_of(net).values():
            gate.theta.fill_(1.0)
    size = cost(net, x)
    params, macs = ExpectedCost(net, x)(probabilities(net, 1.0))
    assert (float(params), float(macs)) == (size.params, size.macs)


@pytest.mark.parametrize("build", [normalised_conv, depthwise, perceptron, branches, grouped])
def test_mean_over_all_gate_vectors_in_which_no_layer_dies(build: Callable[[], nn.Module]) -> None:
    net, x = build(), example(build)
    theta = probabilities(net)
    params, macs = ExpectedCost(net, x)(theta)
    expected = enumerated(net, x, theta)
    assert (float(params), float(macs)) == pytest.approx(expected, rel=1e-5)


def test_bound_where_a_layer_may_die() -> None:
    """Units are counted as needed with the largest, not the joint, probability of their readers: a lower bound here.

    In a dead layer, surgery keeps one structure, and the layers before it go: neither is in the expectation.
    """
    net, x = perceptron(), example(perceptron)
    theta = {name: torch.full_like(value, 0.6) for name, value in probabilities(net).items()}
    params, macs = ExpectedCost(net, x)(theta)
    expected = enumerated(net, x, theta)
    assert 0.5 * expected[0] < float(params) < expected[0]
    assert 0.5 * expected[1] < float(macs) < expected[1]


def test_units_of_a_stream_count_until_its_other_writer_is_off() -> None:
    net, x = stream(), example(stream)
    on, off = torch.tensor([1.0]), torch.tensor([0.0])
    units = torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = ExpectedCost(net, x)
    for branch in (on, off):
        theta = {"0": units, "2": branch}
        params, macs = expected(theta)
        assert float(macs) == (2 * 3 + (2 * 4 + 4 * 2 if branch else 2 * 2))
        assert float(params) == float(macs) + 2 + 2 + (4 if branch else 0)


@pytest.mark.parametrize("build", [normalised_conv, perceptron, branches, stream])
def test_multilinear_while_a_structure_of_every_layer_is_on(build: Callable[[], nn.Module]) -> None:
    net, x = build(), example(build)
    expected, theta = ExpectedCost(net, x), probabilities(net)
    for name, value in theta.items():
        for s in range(1 if len(value) > 1 else 0, len(value)):

            def at(t: float, name: str = name, s: int = s) -> Tensor:
                moved = {n: v.clone() for n, v in theta.items()}
                moved[name][s] = t
                return torch.stack(expected(moved))

            torch.testing.assert_close(at(0.3), 0.7 * at(0.0) + 0.3 * at(1.0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("build", [normalised_conv, perceptron, branches])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_price_is_the_derivative_of_twice_nu_times_the_root(build: Callable[[], nn.Module], weight: float) -> None:
    """Central differences with step 0.01 in float32 are good to about 1e-3."""
    net, x = build(), example(build)
    expected, theta = ExpectedCost(net, x), probabilities(net)
    reference = cost(net, x)
    assert reference.macs is not None
    price = CostPrice(0.3, weight).relative_to(reference)(expected, theta)

    def penalty(name: str, s: int, t: float) -> float:
        moved = {n: v.clone() for n, v in theta.items()}
        moved[name][s] = t
        params, macs = (float(v) for v in expected(moved))
        return 2 * 0.3 * ((params / reference.params) ** weight * (macs / reference.macs) ** (1 - weight)) ** 0.5

    for name, value in theta.items():
        for s, t in enumerate(value.tolist()):
            if 0.01 < t < 0.99:
                slope = (penalty(name, s, t + 0.01) - penalty(name, s, t - 0.01)) / 0.02
                assert float(price[name][s]) == pytest.approx(slope, rel=2e-3, abs=1e-5)


def test_price_of_a_perceptron_by_hand() -> None:
    """One hidden layer of 3 units at θ = ½, 2 inputs, 1 output, no biases: E[params] = 1.5 · 3 = 4.5 of 9."""
    net = nn.Sequential(layers.Linear(2, 3, bias=False, gate="unit"), nn.ReLU(), nn.Linear(3, 1, bias=False))
    x = torch.randn(1, 2)
    price = CostPrice(0.2, reference=Cost(9, 9))(ExpectedCost(net, x), {"0": torch.full((3,), 0.5)})
    torch.testing.assert_close(price["0"], torch.full((3,), 0.2 * (4.5 / 9) ** -0.5 * 3 / 9))


def test_price_hardly_changes_when_all_widths_double() -> None:
    """A cost that goes with the square of the width: biases and the output layer leave 3 % in these networks."""

    def prices(width: int) -> dict[str, Tensor]:
        net = nn.Sequential(
            Gate(width), layers.Linear(width, width, gate="unit"), nn.ReLU(),
            layers.Linear(width, width, gate="unit"), nn.ReLU(), nn.Linear(width, 4),
        )  # fmt: skip
        theta = {name: torch.full((width,), 0.8) for name in ("0", "1", "3")}
        return CostPrice(0.25, reference=Cost(40_000, 40_000))(ExpectedCost(net, torch.randn(1, width)), theta)

    single, double = prices(128), prices(256)
    for name, value in single.items():
        torch.testing.assert_close(double[name][:128], value, rtol=0.03, atol=0)


def test_the_network_is_left_as_it_was() -> None:
    net, x = normalised_conv().train(), example(normalised_conv)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ExpectedCost(net, x)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_saves_nothing_has_a_least_price() -> None:
    """A gate whose layer is read by nothing that is on saves nothing; its price is positive all the same."""
    net, x = perceptron(), example(perceptron)
    theta = probabilities(net, 1.0)
    theta["4"][:] = torch.tensor([1.0, 0.0])
    theta["2"][0] = 0.0
    price = CostPrice(0.3).relative_to(cost(net, x))(ExpectedCost(net, x), theta)
    assert all(bool((value > 0).all()) for value in price.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nu": 0.0}, "expected nu > 0"),
        ({"nu": -1.0}, "expected nu > 0"),
        ({"nu": float("inf")}, "got nu=inf"),
        ({"nu": 1.0, "params": 1.5}, r"params in \[0, 1\], got nu=1.0, params=1.5"),
    ],
)
def test_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CostPrice(**arguments)


@pytest.mark.parametrize("reference", [None, Cost(10, None)])
def test_a_price_needs_a_reference(reference: Cost | None) -> None:
    net, x = perceptron(), example(perceptron)
    with pytest.raises(ConfigError, match="needs a reference with parameters and multiply-adds"):
        CostPrice(0.2, reference=reference)(ExpectedCost(net, x), probabilities(net))


def test_a_reference_stays() -> None:
    first, second = Cost(10, 20), Cost(30, 40)
    assert CostPrice(0.2).relative_to(first).relative_to(second).reference == first
