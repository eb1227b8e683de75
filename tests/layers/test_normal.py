"""Layers with Normal weights: the plain layer at the means, the stated law with noise, drawn weights as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.layers import Draw, NormalLayer, give_normal_slabs
from tests.distributions.verify import verify_uniform
from tests.layers.normals import GATED, LAYERS, moments, noisy, normal

ROWS = 3000
ERRORS = 5.5
"""A right moment misses by more than so many standard errors with probability 4e-8; there are at most 800 of them."""


@pytest.mark.parametrize("name", LAYERS)
def test_without_a_draw_it_is_the_plain_layer(name: str) -> None:
    plain = LAYERS[name][0]().double()
    layer = copy.deepcopy(plain)
    give_normal_slabs(layer, 0.5)
    x = torch.randn(6, *LAYERS[name][1]).double()
    assert torch.equal(layer(x), plain(x))
    layer.draw = Draw([1 if layer.gate is None else layer.gate.size])
    assert torch.equal(layer(x), plain(x))
    state = layer.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    assert {key for key in state if key not in plain.state_dict()} == {
        f"{key}_log_scale" for key in plain.state_dict() if "gate" not in key
    }


@pytest.mark.statistical
@pytest.mark.parametrize("name", LAYERS)
def test_noise_has_the_stated_mean_and_variance(name: str) -> None:
    """Fails by chance at 4e-8 an entry and moment, of each quarter: all have the deviates of the first."""
    layer = normal(name)
    x = torch.randn(LAYERS[name][1]).double()
    outputs = noisy(layer, x.expand(4 * ROWS, *x.shape)).detach().flatten(1)
    mean, variance = (moment.flatten() for moment in moments(layer, x))
    for part in outputs.split(ROWS):
        assert float((part.mean(0) - mean).abs().div((variance / ROWS).sqrt()).max()) < ERRORS
        assert float((part.var(0) / variance - 1).abs().max()) < ERRORS * (2 / (ROWS - 1)) ** 0.5


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["Linear of a sequence", "gated Conv2d"])
def test_noise_is_uncorrelated_between_examples_and_positions(name: str) -> None:
    """Correlations of 600 draws over all pairs of positions of four examples, two of which have the same deviates but
    for their sign; by chance each fails at 4e-8."""
    layer = normal(name)
    x = torch.randn(LAYERS[name][1]).double()
    batch = torch.stack([x] * 40)
    draws = torch.stack([noisy(layer, batch).detach()[[0, 1, 32, 33]].flatten() for _ in range(600)])
    correlations = torch.corrcoef(draws.T) - torch.eye(draws.shape[1])
    assert float(correlations.abs().max()) < ERRORS / 600**0.5


def deviates(layer: NormalLayer, x: Tensor, examples: int | None = None) -> Tensor:
    variance = torch.stack([moments(layer, row)[1] for row in x]).view_as(layer(x))
    return (noisy(layer, x, examples=examples) - layer(x)).detach() / variance.sqrt()


@pytest.mark.parametrize("name", ["Linear", "gated Conv2d"])
@pytest.mark.parametrize(("rows", "distinct"), [(1, 1), (32, 32), (40, 32), (127, 32), (132, 33)])
def test_examples_of_a_large_batch_have_the_deviates_of_others_with_signs(name: str, rows: int, distinct: int) -> None:
    """A quarter have deviates of their own, at least 32 if there are as many."""
    layer = normal(name)
    x = torch.randn(LAYERS[name][1]).double().expand(rows, *LAYERS[name][1])
    found = deviates(layer, x).flatten(1)
    assert found[:distinct].abs().unique().numel() == found[:distinct].numel()
    signs = [float((found[i] / found[i % distinct])[0].sign()) for i in range(distinct, rows)]
    for i, sign in zip(range(distinct, rows), signs, strict=True):
        torch.testing.assert_close(found[i], sign * found[i % distinct], rtol=1e-6, atol=1e-6)
    assert set(signs) == ({-1.0, 1.0} if rows > distinct else set())  # fails by chance at 1 in 128


def test_rows_that_are_no_examples_are_independent() -> None:
    """Where a network has put time before the batch, or flattened it into it."""
    layer = normal("Linear")
    x = torch.randn(40, *LAYERS["Linear"][1]).double()
    found = deviates(layer, x, examples=20)
    assert found.abs().unique().numel() == found.numel()


def test_variances_of_a_shorter_format_are_computed_with_in_it() -> None:
    """Roundings of 2^-9 each of σ², x², the bias, and the result: within 2^-7 of the standard deviation."""
    layer = nn.Linear(300, 50)
    give_normal_slabs(layer, 0.5)
    x = torch.randn(64, 300)
    torch.manual_seed(1)
    exact = noisy(layer, x) - layer(x)
    layer.handed = tuple(v.bfloat16() for v in layer.variances())
    torch.manual_seed(1)
    short = noisy(layer, x) - layer(x)
    assert short.dtype == torch.float32 and not torch.equal(short, exact)
    torch.testing.assert_close(short, exact, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("name", GATED)
def test_gates_multiply_the_noise_too(name: str) -> None:
    layer, (_, shape) = normal(name), LAYERS[name]
    size = layer.gate.size
    x, xi = torch.randn(6, *shape).double(), (torch.rand(6, size) < 0.5).double()
    torch.manual_seed(1)
    everything = noisy(layer, x)
    torch.manual_seed(1)
    gated = noisy(layer, x, xi)
    factor = xi.view(6, size, *[1] * (gated.dim() - 2))
    assert bool((xi == 0).any()) and torch.equal(gated, everything * factor)


@pytest.mark.parametrize("name", LAYERS)
def test_drawn_weights_are_computed_with(name: str) -> None:
    """By torch's layer with these weights; for all examples alike, with and without noise asked for."""
    layer = normal(name)
    x = torch.randn(6, *LAYERS[name][1]).double()
    layer.draw_weights()
    assert layer.drawn is not None
    weight, bias = layer.drawn
    plain = LAYERS[name][0]().double()
    with torch.no_grad():
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
    assert torch.equal(noisy(layer, x), plain(x)) and not torch.equal(weight, layer.weight)
    layer.drop_weights()
    assert layer.drawn is None and not torch.equal(layer(x), plain(x))


@pytest.mark.statistical
@pytest.mark.parametrize("build", [lambda: nn.Linear(40, 50), lambda: nn.Conv2d(10, 20, 3, groups=2)])
def test_drawn_weights_have_the_posteriors_law(build: Callable[[], nn.Module]) -> None:
    """Standardised they are standard normal: a Kolmogorov-Smirnov test, which fails by chance at 1e-6."""
    layer = build().double()
    give_normal_slabs(layer, 0.5)
    with torch.no_grad():
        layer.weight_log_scale.add_(torch.randn_like(layer.weight))
        layer.bias_log_scale.sub_(2)
    for _ in range(2):
        layer.draw_weights()
        weight, bias = layer.drawn
        assert not weight.requires_grad
        standard = (weight - layer.weight) / layer.weight_log_scale.exp()
        verify_uniform(torch.special.ndtr(standard.detach()).flatten(), 1e-6)
        standard = (bias - layer.bias) / layer.bias_log_scale.exp()
        verify_uniform(torch.special.ndtr(standard.detach()), 1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_a_noisy_output(name: str) -> None:
    """o = m + ε √v, so ∂o/∂μ = ∂m/∂μ and ∂o/∂log σ = ε/(2√v) ∂v/∂log σ: by finite differences with ε as it was."""
    layer = normal(name)
    x = torch.randn(2, *LAYERS[name][1]).double()

    def total() -> Tensor:
        torch.manual_seed(4)
        return noisy(layer, x).sin().sum()

    parameters = [p for p in layer.parameters() if p is not getattr(layer.gate, "theta", None)]
    slopes = torch.autograd.grad(total(), parameters)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            entry = (0,) * parameter.dim()
            parameter[entry] += 1e-6
            above = total()
            parameter[entry] -= 2e-6
            below = total()
            parameter[entry] += 1e-6
            assert float((above - below) / 2e-6) == pytest.approx(float(slope[entry]), rel=1e-5, abs=1e-7)


# nothing to add noise to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["Linear without bias", "Conv2d in groups, without bias"])
def test_inputs_of_zero_have_finite_derivatives(name: str, dtype: torch.dtype) -> None:
    """The variance is 0 there, whose root has none. An example of zeros, and one with some."""
    layer = normal(name).to(dtype)
    x = torch.randn(3, *LAYERS[name][1], dtype=dtype)
    x[0] = 0
    x[1, ..., :2] = 0
    x.requires_grad_()
    outputs = noisy(layer, x)
    slopes = torch.autograd.grad(outputs.square().sum(), [x, layer.weight, layer.weight_log_scale])
    assert float(outputs[0].detach().abs().max()) < 1e-7
    assert all(bool(slope.isfinite().all()) for slope in slopes)
    assert float(slopes[0][0].abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d in groups, without bias"])
def test_a_variance_rounded_below_zero_counts_as_zero(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast algorithms for convolutions round so; the outputs are then their means."""
    layer = normal(name)
    x = torch.randn(2, *LAYERS[name][1]).double()
    mean = layer(x)
    exact = type(layer).map

    def rounded(self: NormalLayer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = exact(self, x, weight, bias)
        return outputs if weight is layer.weight else outputs * 0 - 1e-9

    monkeypatch.setattr(type(layer), "map", rounded)
    outputs = noisy(layer, x)
    torch.testing.assert_close(outputs, mean, rtol=0, atol=1e-7)
    (slope,) = torch.autograd.grad(outputs.sum(), layer.weight_log_scale)
    assert not slope.any()
