"""Net-Trim: its program against another solver, what it finds again, and what it does with layers of any kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.methods.net_trim import NetTrim
from bayesprune.methods.protocol.signals import linear_maps, vectors
from bayesprune.methods.solvers.admm import least_weights
from bayesprune.training import Settings, fit
from tests.methods.toys import batches, dropping
from tests.training.problems import Batches, branches, examples

RESTS = Settings(lr=1e-30)
X = torch.zeros(1, 8)


def problem(seed: int, n: int, m: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, sparse weights, and what they give behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, generator=generator, dtype=torch.float64)
    w = torch.randn(n, m, generator=generator, dtype=torch.float64)
    w *= torch.rand(n, m, generator=generator) < 0.3
    return x, w, (x @ w).relu()


def by_another_solver(x: Tensor, y: Tensor, radius: float) -> np.ndarray:
    """The same program by sequential quadratic programming, W as a difference of two that are not negative."""
    a, b, on = x.numpy(), y.numpy(), y.numpy() > 1e-6
    shape = (x.shape[1], y.shape[1])

    def weights(z: np.ndarray) -> np.ndarray:
        return (z[: z.size // 2] - z[z.size // 2 :]).reshape(shape)

    def room(z: np.ndarray) -> float:
        return radius**2 - float((((a @ weights(z) - b) * on) ** 2).sum())

    def room_slope(z: np.ndarray) -> np.ndarray:
        slope = (-2 * a.T @ ((a @ weights(z) - b) * on)).ravel()
        return np.concatenate([slope, -slope])

    silent = np.einsum("pi,pj->pji", a, np.ones_like(b))[~on]  # one row a silent entry, times its column
    rows = np.zeros((len(silent), *shape))
    for k, (_, column) in enumerate(np.argwhere(~on)):
        rows[k, :, column] = silent[k]
    rows = rows.reshape(len(rows), -1)
    rows = np.concatenate([-rows, rows], 1)
    least = np.linalg.lstsq(a, b, rcond=None)[0].ravel()
    found = minimize(
        np.sum,
        np.concatenate([np.maximum(least, 0), np.maximum(-least, 0)]),
        jac=np.ones_like,
        bounds=[(0, None)] * rows.shape[1],
        constraints=[
            {"type": "ineq", "fun": room, "jac": room_slope},
            {"type": "ineq", "fun": lambda z: rows @ z, "jac": lambda z: rows},
        ],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    assert found.success or found.status == 8, found.message  # 8: no step is better by what floats tell apart
    return weights(found.x)


@pytest.mark.parametrize(("seed", "radius"), [(0, 0.3), (1, 1.0), (2, 3.0)])
def test_the_solver_finds_what_another_one_finds(seed: int, radius: float) -> None:
    x, _, y = problem(seed, 6, 2, 24)
    found, spent = least_weights(x, y, y > 1e-6, torch.zeros_like(y), radius, steps=20000, tolerance=1e-9)
    expected = by_another_solver(x, y, radius)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert float(((x @ found - y) * (y > 1e-6)).norm()) == pytest.approx(radius, rel=1e-6)
    assert spent % (2 * 24 * 6 * 2 + 6 * 6 * 2) == (2 * 24 * 6 * 6 + 6**3) % (2 * 24 * 6 * 2 + 6 * 6 * 2)


def test_without_room_the_weights_that_made_the_outputs_come_again() -> None:
    """40 examples of 12 inputs: entries to 1e-5, and zeros exactly where they were."""
    x, w, y = problem(3, 12, 2, 40)
    found, _ = least_weights(x, y, y > 1e-6, torch.zeros_like(y), 1e-6, steps=3000, tolerance=1e-6)
    assert torch.equal(found != 0, w != 0)
    torch.testing.assert_close(found, w, atol=1e-5, rtol=0)


def test_a_solution_that_was_not_found_is_said() -> None:
    x, _, y = problem(3, 20, 3, 60)
    with pytest.warns(UserWarning, match="not found within 3 steps"):
        least_weights(x, y, y > 1e-6, torch.zeros_like(y), 1e-7, steps=3)


def test_a_unit_that_never_speaks_loses_its_weights() -> None:
    x, _, y = problem(4, 5, 2, 40)
    y[:, 1] = 0
    found, _ = least_weights(x, y, y > 1e-6, torch.zeros_like(y), 0.1)
    assert bool((found[:, 1] == 0).all()) and bool((found[:, 0] != 0).any())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 3),
        nn.Conv1d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, (3, 2), dilation=(1, 2), padding="same", padding_mode="reflect", bias=False),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
    ],
)
def test_vectors_times_the_matrix_are_outputs_at_some_place(layer: nn.Module) -> None:
    x = torch.randn(20, *{nn.Linear: (5, 6), nn.Conv1d: (2, 9)}.get(type(layer), (layer.weight.shape[1], 6, 5)))
    (found,) = linear_maps(nn.Sequential(layer), x)
    drawn = vectors(layer, x, seed=1)
    outputs = (found.with_ones(drawn) @ found.matrix()).float()
    with torch.no_grad():
        every = layer(x).movedim(-1 if isinstance(layer, nn.Linear) else 1, -1).flatten(1, -2)
    gaps = (every - outputs[:, None]).abs().amax(2)
    assert bool((gaps.amin(1) < 1e-5).all())
    assert len(gaps.argmin(1).unique()) > 2 and torch.equal(drawn, vectors(layer, x, seed=1))


class Nets(nn.Module):
    """One layer twice, one whose outputs are read by two, and functions between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.twice, self.two = nn.Linear(8, 6), nn.Linear(6, 6), layers.Linear(6, 4, gate="unit")
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        x = self.twice(self.twice(x)) + self.one.bias.sum() * 0
        u = self.two(x)
        return self.out(F.relu(self.drop(u)) + u.relu())


def test_which_layers_are_solved_and_what_follows_them() -> None:
    found = linear_maps(Nets(), torch.zeros(1, 8))
    assert [(layer.name, layer.rectified) for layer in found] == [("two.weight", True), ("out.weight", False)]


def test_weights_that_rest_stay() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    net[0].requires_grad_(False)
    before, after = trimmed(net)
    assert torch.equal(before["0.weight"], after[0].weight) and bool((after[2].weight == 0).any())


def trimmed(net: nn.Module, loader: object = None, **how: object) -> tuple[nn.Module, nn.Module]:
    """A network before and after, of which nothing learns."""
    torch.manual_seed(0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fit(net, loader or batches(), epochs=2, method=NetTrim(**how), settings=RESTS)  # type: ignore[arg-type]
    return before, net


@pytest.mark.parametrize("cascade", [pytest.param(False, marks=pytest.mark.slow), True])
def test_layers_nearly_give_what_they_gave(cascade: bool) -> None:
    """All examples are recorded: the first layer's values above 0 are missed by ε of them, and few weights do it."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    x, y = examples()
    with torch.no_grad():
        net[0].weight[:, 3:] *= 1e-2  # what has nearly no effect
        y = net(x).argmax(1)
    before, after = trimmed(net, Batches(x, y), epsilon=0.1, cascade=cascade)
    u, v = (F.linear(x, net["0.weight"], net["0.bias"]) for net in (before, after.state_dict()))
    on = u > 0
    assert float((v - u)[on].norm() / u[on].norm()) == pytest.approx(0.1, rel=0.01)
    assert float(v[~on].max()) < 0.01
    assert float((after[0].weight[:, 3:].abs() < 1e-20).float().mean()) > 0.8
    assert float((after(x).argmax(1) == y).float().mean()) > 0.9


def test_a_constant_unit_keeps_its_gate() -> None:
    """Its bias alone is left, which is no reason to remove it; and it may have a weight again."""
    net = nn.Sequential(layers.Linear(8, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0.0, 1.5
        net[0].weight[4], net[0].bias[4] = 0.0, -1.5
    _, after = trimmed(net, epsilon=0.01)
    assert len(after[0].weight) == 5 and float(after[0].bias[2].detach()) == pytest.approx(1.5, rel=0.1)
    assert float(after[0].weight[2].detach().abs().max()) < 1e-20


def test_a_cascade_needs_the_same_examples_in_every_pass() -> None:
    """Torch's own loader shuffles by random numbers that are the same each time; noise is another one each time."""
    x, y = examples()
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    trimmed(net, DataLoader(TensorDataset(x, y), 40, shuffle=True), cascade=True, epsilon=0.1)

    class Noisy(Batches):
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield from ((x + self.passes, y) for x, y in super().__iter__())

    with pytest.raises(ConfigError, match="the training loader gives others; take cascade=False"):
        trimmed(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), Noisy(x, y), cascade=True)


@pytest.mark.parametrize(
    ("net", "how", "message"),
    [
        (dropping, {}, "what follows '0' is no ReLU; take relu=False"),
        (branches, {}, "what follows '0' is no ReLU"),
        (lambda: nn.Sequential(nn.Linear(8, 2)), {"examples": 7}, "7 recorded examples .* '0', which has 8 inputs"),
        (lambda: nn.Sequential(nn.Embedding(8, 2)), {}, "no linear layer or convolution"),
    ],
)
def test_networks_that_it_cannot_act_on(net, how: dict, message: str) -> None:
    x, y = examples()
    x = x[:, 0].long().clamp(0, 7) if isinstance(net()[0], nn.Embedding) else x
    with pytest.raises(ConfigError, match=message):
        fit(net(), Batches(x, y), epochs=2, method=NetTrim(**how), settings=RESTS)


def test_a_layer_that_may_miss_everything_is_said() -> None:
    """In a cascade, where what goes in has become the opposite of what went in."""
    method = NetTrim(cascade=True)
    layers_of = linear_maps(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)), X)
    method.check_layers(layers_of)
    x = torch.randn(40, 7, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"all that '2.weight' gave may be missed"):
        found, _ = method.solve(layers_of[1], -x, x @ layers_of[1].matrix())
    assert float(found.abs().max()) < 1e-6


@pytest.mark.parametrize("make", [dropping, branches])
def test_any_network_by_all_outputs(make) -> None:
    _, after = trimmed(make(), relu=False, epsilon=0.3)
    zeros = {name: float((p == 0).float().mean()) for name, p in after.named_parameters() if p.dim() > 1}
    assert all(share > 0.1 for share in zeros.values()), zeros


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epsilon": 0.0}, r"^net_trim: epsilon must be in \(0, 1\)"),
        ({"epsilon": 1.0}, r"^net_trim: epsilon must be in \(0, 1\)"),
        ({"until": 1.0}, r"^net_trim: until must be in \(0, 1\)"),
        ({"examples": 0}, "^net_trim: examples must be a whole number"),
        ({"relu": 3}, "^NetTrim: relu must be True or False"),
    ],
)
def test_bad_settings(how: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetTrim(**how)  # type: ignore[arg-type]
