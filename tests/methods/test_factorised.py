"""Factors on grids: how near they are, what layers become, and that they stay on their grids."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.methods.factorised import QuantisedFactors
from bayesprune.methods.solvers.factors import on_grid, product, quantised, without_grid
from bayesprune.pruning import compact, cost
from bayesprune.training import Settings, fit
from tests.methods.toys import batches
from tests.training.problems import Batches, examples


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def away(tensor: Tensor, factors: list[Tensor]) -> float:
    return float((tensor - product(factors)).norm() / tensor.norm())


def on_some_grid(factor: Tensor, bits: int) -> bool:
    """Whether all entries are multiples of a step, with as many multiples as bits allow."""
    entries = factor.detach().double()
    for most in range(1, 2 ** (bits - 1) + 1):  # by which the largest is a multiple
        multiples = entries / (entries.abs().max() / most)
        if float((multiples - multiples.round()).abs().max()) < 1e-4:
            return True
    return False


@pytest.mark.parametrize(
    ("bits", "shape"), [(16, (16, 12)), (8, (16, 12)), (4, (16, 12)), (3, (16, 12)), (4, (6, 5, 4))]
)
def test_factors_on_grids_are_nearer_than_rounded_ones(bits: int, shape: tuple[int, ...]) -> None:
    """With many values as near as without a grid, which of a matrix is the nearest of its rank."""
    tensor = drawn(*shape)
    free = without_grid(tensor, 4)
    found, spent = quantised(tensor, free, bits)
    rounded = [on_grid(factor, bits) for factor in free]
    assert bits == 16 or all(on_some_grid(factor, bits) for factor in found)
    assert spent > 0
    assert away(tensor, found) <= away(tensor, rounded)
    if bits == 16:
        assert away(tensor, found) <= away(tensor, free) * (1 + 1e-6)
    if bits == 3:
        assert away(tensor, found) < 0.99 * away(tensor, rounded)
    if len(shape) == 2:
        left = torch.linalg.svdvals(tensor)[4:].norm() / tensor.norm()
        assert away(tensor, free) == pytest.approx(float(left), rel=1e-9)


def test_a_tensor_of_the_rank_is_met_exactly() -> None:
    tensor = product([drawn(8, 2), drawn(6, 2, seed=1), drawn(9, 2, seed=2)])
    assert away(tensor, without_grid(tensor, 2)) < 1e-3


def test_nothing_stays_nothing() -> None:
    found, _ = quantised(torch.zeros(4, 3, dtype=torch.float64), without_grid(torch.zeros(4, 3).double(), 1), 4)
    assert all(bool((factor == 0).all()) for factor in found)


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, stride=4), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding="same", padding_mode="reflect", dilation=2, bias=False), nn.ReLU(),
        nn.Conv2d(24, 24, 1), nn.Flatten(), nn.Linear(384, 24),
    )  # fmt: skip


def test_small_layers_have_eight_columns_or_the_most_that_save_weights() -> None:
    """Rather than one or two numbers between the last hidden layer and ten classes."""
    method = QuantisedFactors(0.1)
    rows = [
        method.row_of(nn.Linear(inputs, outputs))
        for inputs, outputs in ((100, 10), (300, 100), (100, 5), (8, 8), (2, 2))
    ]
    assert [row and row.get_parameter("first.weight").shape[0] for row in rows] == [8, 8, 4, 3, None]
    assert QuantisedFactors(0.29).row_of(nn.Linear(200, 200)).get_parameter("first.weight").shape[0] == 29


@pytest.mark.parametrize(("form", "exact"), [("matrix", 0.99), ("cp", 0.99)])
def test_a_row_gives_what_its_product_would(form: str, exact: float) -> None:
    torch.manual_seed(0)
    method, x = QuantisedFactors(exact, form=form), torch.randn(4, 3, 16, 16, dtype=torch.float64)  # type: ignore[arg-type]
    for layer in images().double():
        row = method.row_of(layer)
        if row is not None:
            parts = dict(row.named_children())
            weights = {key: part.weight.detach() for key, part in parts.items()}
            factors = [weights["last"].flatten(1), weights["first"].flatten(1).T]
            factors += [weights["depth"].flatten(1).T] if "depth" in weights else []
            whole = product(factors).reshape(layer.weight.shape)
            near = float((whole - layer.weight.detach()).norm() / layer.weight.detach().norm())
            with torch.no_grad():
                layer.weight.copy_(whole)
            torch.testing.assert_close(row(x), layer(x))
            assert near < 0.6 and ("depth" in parts) == (form == "cp" and layer.weight[0, 0].numel() > 1)
            assert sum(w.numel() for w in weights.values()) <= exact * layer.weight.numel()
        x = layer(x).detach()


@pytest.mark.parametrize("form", ["matrix", pytest.param("cp", marks=pytest.mark.slow)])
def test_weights_end_on_their_grids_while_the_rest_trains_on(form: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = images(), examples(120)
    loader = Batches(x[:, :3, None, None].expand(-1, 3, 16, 16).contiguous(), y)
    start, seen = cost(net, torch.zeros(1, 3, 16, 16)).params, []
    method = QuantisedFactors(0.3, bits=4, form=form)  # type: ignore[arg-type]

    def remember(row: object) -> None:
        seen.append({name: value.clone() for name, value in net.state_dict().items()})

    fit(net, loader, epochs=4, method=method, settings=Settings(lr=0.01), on_epoch=remember)
    factors = [f"{name}.{key}.weight" for name in "0357" for key, _ in net.get_submodule(name).named_children()]
    assert all(on_some_grid(net.get_parameter(name), 4) for name in factors)
    assert all(
        torch.equal(seen[1][name], seen[3][name]) and not torch.equal(seen[0][name], seen[1][name]) for name in factors
    )
    others = [name for name, _ in net.named_parameters() if name not in factors]
    assert others and all(not torch.equal(seen[1][name], seen[3][name]) for name in others)
    assert cost(compact(net), torch.zeros(1, 3, 16, 16)).params < 0.45 * start


def test_a_trained_network_keeps_what_it_learned() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    trained = fit(net, batches(), epochs=6, val_loader=batches(), method="none", settings=Settings(lr=0.01))
    history = fit(
        net, batches(), epochs=2, val_loader=batches(), method=QuantisedFactors(0.5, 8), settings=Settings(lr=1e-30)
    )
    assert history.rows[-1].val_accuracy > trained.rows[-1].val_accuracy - 0.03


@pytest.mark.parametrize("net", [lambda: nn.Linear(8, 2), lambda: nn.Sequential(layers.Linear(8, 2, gate="unit"))])
def test_networks_without_plain_layers(net) -> None:
    with pytest.raises(ConfigError, match="is so large that factors have fewer weights"):
        fit(net(), batches(), epochs=2, method="factorised")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"share": 1.0}, r"^factorised: share must be in \(0, 1\)"),
        ({"bits": 1}, "^factorised: bits must be a whole number, at least 2"),
        ({"bits": 17}, "^factorised: bits must be at most 16"),
        ({"form": "tucker"}, "^factorised: form must be 'matrix' or 'cp'"),
        ({"until": 0.0}, r"^factorised: until must be in \(0, 1\)"),
    ],
)
def test_bad_settings(how: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantisedFactors(**how)
