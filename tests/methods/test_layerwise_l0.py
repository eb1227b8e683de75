"""Layers with few weights: the best sets against all sets, and what is left in networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.methods.layerwise_l0 import LayerwiseL0
from bayesprune.methods.solvers.subsets import best_subsets, one_sided, pursued
from bayesprune.training import Settings, fit
from tests.methods.toys import batches, dropping
from tests.training.problems import Batches, convolutional, examples

RESTS = Settings(lr=1e-30)


def correlated(seed: int, count: int, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Inputs that go together, and outputs that are not quite linear in them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, generator=generator, dtype=torch.float64)
    x = x + 0.7 * x.mean(1, keepdim=True) * n**0.5
    weights = torch.randn(n, m, generator=generator, dtype=torch.float64)
    return x, x @ weights + 0.5 * torch.randn(count, m, generator=generator, dtype=torch.float64)


def moments(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.T @ x, x.T @ u, u.square().sum(0)


def errors(x: Tensor, u: Tensor, weights: Tensor) -> Tensor:
    return (x @ weights - u).square().sum(0)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_sets_are_those_of_all_sets(size: int, seed: int) -> None:
    x, u = correlated(seed, 60, 8, 3)
    found = best_subsets(*moments(x, u), size)
    for column, output in enumerate(u.T):
        every = [
            (float((x[:, s] @ torch.linalg.lstsq(x[:, s], output).solution - output).square().sum()), s)
            for s in itertools.combinations(range(8), size)
        ]
        error, best = min(every)
        assert tuple(found.weights[:, column].nonzero()[:, 0].tolist()) == best
        assert float(errors(x, u, found.weights)[column]) == pytest.approx(error, rel=1e-8)
    assert found.gap.tolist() == [0, 0, 0]


def test_what_is_not_searched_through_has_a_gap() -> None:
    x, u = correlated(0, 200, 20, 2)
    full, part = (best_subsets(*moments(x, u), 6, nodes=nodes) for nodes in (5000, 10))
    assert full.gap.tolist() == [0, 0] and bool((part.gap > 0.01).all())
    lower = errors(x, u, part.weights) * (1 - part.gap)
    assert bool((lower <= errors(x, u, full.weights) * (1 + 1e-9)).all())


def test_pursuit_finds_a_set_that_is_there_and_is_never_worse_than_its_start() -> None:
    x, u = correlated(1, 300, 60, 4)
    sparse = torch.zeros(60, 4, dtype=torch.float64)
    sparse[:5] = 1.0 + torch.rand(5, 4, dtype=torch.float64)
    exact = pursued(*moments(x, x @ sparse), 5, torch.linalg.lstsq(x, x @ sparse).solution)
    torch.testing.assert_close(exact.weights, sparse, atol=1e-6, rtol=0)
    start = torch.linalg.lstsq(x, u).solution
    largest = (start * x.square().sum(0).sqrt()[:, None]).abs().topk(12, dim=0).indices
    found, best = pursued(*moments(x, u), 12, start), torch.linalg.lstsq(x, u).solution
    for column in range(4):
        s = largest[:, column]
        first = float((x[:, s] @ torch.linalg.lstsq(x[:, s], u[:, column]).solution - u[:, column]).square().sum())
        assert float(errors(x, u, found.weights)[column]) <= first * (1 + 1e-9)
    expected = 1 - errors(x, u, best) / errors(x, u, found.weights)
    torch.testing.assert_close(found.gap, expected, rtol=1e-5, atol=1e-6)
    assert bool(((found.weights != 0).sum(0) == 12).all())


def test_constant_inputs_and_outputs() -> None:
    x, u = correlated(2, 100, 6, 2)
    x[:, 3], u[:, 1] = 0.0, 0.0
    for found in (best_subsets(*moments(x, u), 2), pursued(*moments(x, u), 2, torch.zeros(6, 2))):
        assert bool(found.weights.isfinite().all()) and float(found.weights[:, 1].abs().max()) < 1e-9


def one_sided_error(x: np.ndarray, y: np.ndarray) -> float:
    """Σ ξ of the best weights of these inputs, by a linear program."""
    count, n = x.shape
    on = y > 0
    rows = np.vstack([np.hstack([x, -np.eye(count)]), np.hstack([-x[on], -np.eye(count)[on]])])
    cost = np.concatenate([np.zeros(n), np.ones(count)])
    bounds = [(None, None)] * n + [(0, None)] * count
    return float(linprog(cost, A_ub=rows, b_ub=np.concatenate([y, -y[on]]), bounds=bounds).fun)


@pytest.mark.parametrize("bias", [False, True])
def test_behind_a_relu_the_best_set_is_that_of_all_sets(bias: bool) -> None:
    x, u = (part.numpy() for part in correlated(4, 24, 6, 1))
    x = np.hstack([x, np.ones((24, 1))]) if bias else x
    y = np.maximum(u[:, 0], 0)
    weights, gap, _ = one_sided(x, y, 2, bias=bias)
    given = x @ weights
    found = float(np.where(y > 0, np.abs(given - y), np.maximum(given, 0)).sum())
    ends = [6] if bias else []
    best = min(one_sided_error(x[:, [*s, *ends]], y) for s in itertools.combinations(range(6), 2))
    assert found == pytest.approx(best, rel=1e-9) and gap == 0
    assert int((weights[:6] != 0).sum()) <= 2


def normal_problem(seed: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Inputs, what should come out behind a ReLU, how many entries may be, and whether there is a bias."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5))
    return x, np.maximum(x @ rng.normal(size=5) + 0.3 * rng.normal(size=20), 0), 2, False


def odd_problem(seed: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """As `normal_problem`, of any size, with an input that may be 0, one behind a ReLU, and few examples at times."""
    rng = np.random.default_rng(seed)
    n, bias = int(rng.integers(3, 7)), bool(seed % 2)
    count = int(rng.integers(n - 1, 5 * n))
    x = rng.normal(size=(count, n + bias))
    x[:, 0] *= seed % 3 > 0
    x[:, 1] = np.maximum(x[:, 1], 0)
    x[:, n:] = 1
    y = np.maximum(x @ rng.normal(size=n + bias) + 0.3 * rng.normal(size=count), 0)
    return x, y, int(rng.integers(1, n)), bias


@pytest.mark.parametrize(("problem", "seeds", "shown"), [(normal_problem, (10, 26), 2), (odd_problem, range(8), 6)])
def test_no_gap_is_said_of_sets_that_are_not_the_best(
    problem: Callable[[int], tuple[np.ndarray, np.ndarray, int, bool]], seeds: Sequence[int], shown: int
) -> None:
    """Also where weights are larger than those of least squares (Normal inputs, these seeds); most have none."""
    gaps = []
    for seed in seeds:
        x, y, size, bias = problem(seed)
        n = x.shape[1] - bias
        weights, gap, _ = one_sided(x, y, size, bias=bias)
        given, ends = x @ weights, [n] if bias else []
        found = float(np.where(y > 0, np.abs(given - y), np.maximum(given, 0)).sum())
        best = min(one_sided_error(x[:, [*s, *ends]], y) for s in itertools.combinations(range(n), size))
        assert int((weights[:n] != 0).sum()) <= size
        assert found * (1 - gap) <= best * (1 + 1e-6) + 1e-9
        gaps.append(gap)
    assert gaps.count(0.0) >= shown


@pytest.mark.parametrize(("make", "sparsity", "cascade"), [(dropping, 0.6, False), (convolutional, 0.9, True)])
def test_each_output_keeps_its_share(make, sparsity: float, cascade: bool) -> None:
    """Also before a normalisation, and of convolutions."""
    torch.manual_seed(0)
    net, (x, y) = make(), examples()
    method = LayerwiseL0(sparsity, cascade)
    loader = Batches(x[:, None] if make is convolutional else x, y)
    fit(net, loader, epochs=2, method=method, settings=Settings(lr=0.01))
    for layer in net:
        if isinstance(layer, (nn.Linear, nn.Conv1d)):
            n = layer.weight[0].numel()
            left = (layer.weight != 0).flatten(1).sum(1)
            assert bool((left <= max(1, round((1 - sparsity) * n))).all()) and bool((left > 0).any())
    assert len(method.gaps) == (3 if make is convolutional else 2) and bool((method.gaps < 1).all())


def test_a_layer_that_is_sparse_stays_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight *= torch.tensor([1.0, 0, 0, 0, 0, 0, 1, 0])
        net[0].bias += 0.5
    before = net[0].weight.detach().clone(), net[0].bias.detach().clone()
    for relu in (False, True):
        fit(net, batches(), epochs=2, method=LayerwiseL0(0.75, relu=relu), settings=RESTS)
        torch.testing.assert_close((net[0].weight.detach(), net[0].bias.detach()), before, rtol=1e-3, atol=1e-5)


def test_too_many_inputs_for_a_mixed_program() -> None:
    net = nn.Sequential(nn.Linear(8, 31), nn.ReLU(), layers.Linear(31, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"'2' has 31 inputs, and with relu=True .* take relu=False"):
        fit(net, batches(), epochs=2, method=LayerwiseL0(relu=True), settings=RESTS)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sparsity": 0.0}, r"^layerwise_l0: sparsity must be in \(0, 1\)"),
        ({"sparsity": 1.0}, r"^layerwise_l0: sparsity must be in \(0, 1\)"),
        ({"relu": "yes"}, "^LayerwiseL0: relu must be True or False"),
    ],
)
def test_bad_settings(how: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LayerwiseL0(**how)
