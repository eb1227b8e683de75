"""Fixed inclusion probabilities, those of SS-IG by its formula and by hand, and the divergence of normal laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from bayesprune.distributions import (
    FixedInclusion,
    bernoulli_kl,
    layer_adaptive_log_gamma,
    normal_kl,
)
from bayesprune.distributions.inclusion import SSIG_C
from bayesprune.distributions.kl import bernoulli_entropy
from bayesprune.errors import ConfigError
from tests.distributions.verify import verify_batching, verify_close, verify_pyro_site, verify_share

DTYPES = [torch.float32, torch.float64]
THETAS = [0.0, 1e-30, 1e-6, 0.3, 0.5, 1 - 1e-6, 1.0]


# the law --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_batching(dtype: torch.dtype) -> None:
    probs = torch.tensor([1e-6, 0.2, 0.5, 0.9], dtype=dtype)
    verify_batching(FixedInclusion, [probs], torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=dtype))
    verify_pyro_site(FixedInclusion(probs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_bernoulli(dtype: torch.dtype) -> None:
    probs = torch.tensor([1e-5, 0.2, 0.5, 0.9], dtype=dtype)
    law, torchs = FixedInclusion(probs), Bernoulli(probs.double())
    tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 1e-12, "atol": 1e-12}
    for value in (0.0, 1.0):
        found = law.log_prob(torch.tensor(value, dtype=dtype))
        torch.testing.assert_close(found.double(), torchs.log_prob(torch.tensor(value).double()), **tolerance)
    for found, expected in ((law.mean, torchs.mean), (law.variance, torchs.variance), (law.probs, torchs.probs)):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, **tolerance)


@pytest.mark.statistical
def test_samples() -> None:
    """By an exact binomial test, which fails by chance at 1e-6 a probability."""
    draws = FixedInclusion(torch.tensor([0.02, 0.5, 0.9])).sample((20_000,))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    for column, probability in zip(draws.T, (0.02, 0.5, 0.9), strict=True):
        verify_share(column, probability, 1e-6)


@pytest.mark.parametrize("log_gamma", [-1000.0, -90.0, 90.0, 1000.0, 1e5])
def test_probabilities_that_floats_cannot_hold(log_gamma: float) -> None:
    """λ = 1/(1 + e^log γ): the rarer outcome costs |log γ| nats, the other nothing."""
    law = FixedInclusion(log_gamma=log_gamma)
    assert law.log_prob(torch.tensor(1.0)).item() == pytest.approx(-max(log_gamma, 0), abs=1e-30)
    assert law.log_prob(torch.tensor(0.0)).item() == pytest.approx(min(log_gamma, 0), abs=1e-30)
    assert law.penalty(torch.tensor(0.25)).item() == pytest.approx(
        abs(log_gamma) * (0.25 if log_gamma > 0 else 0.75) - bernoulli_entropy(torch.tensor(0.25)).item()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("theta", THETAS)
def test_penalty_is_the_divergence(theta: float, dtype: torch.dtype) -> None:
    probs = torch.tensor([1e-6, 1e-3, 0.2, 0.5, 0.97], dtype=dtype)
    at = torch.tensor(theta, dtype=dtype)
    found, expected = FixedInclusion(probs).penalty(at), bernoulli_kl(at.double(), probs.double())
    error = (found.double() - expected).abs() / (1 + probs.double().log().abs())
    assert float(error.max()) < 8 * torch.finfo(dtype).eps
    log_gamma = -torch.logit(probs)
    assert torch.equal(FixedInclusion(log_gamma=log_gamma).penalty(at), found)


def test_slope_of_the_penalty() -> None:
    """log γ + logit θ: 0 at the prior itself."""
    probs = torch.tensor([1e-4, 0.2, 0.9]).double()
    theta = torch.tensor([0.3, 0.2, 0.99]).double().requires_grad_()
    (slope,) = torch.autograd.grad(FixedInclusion(probs).penalty(theta).sum(), theta)
    torch.testing.assert_close(slope, torch.logit(theta.detach()) - torch.logit(probs))
    assert abs(float(slope[1])) < 1e-14


@pytest.mark.parametrize("value", [0.3, torch.tensor(0.3), torch.tensor([0.3], dtype=torch.float64)])
def test_dtypes_of_probabilities(value: torch.Tensor | float) -> None:
    expected = value.dtype if isinstance(value, torch.Tensor) else torch.float32
    assert FixedInclusion(value).log_gamma.dtype == FixedInclusion(value).penalty(torch.tensor(0.5)).dtype == expected


@pytest.mark.parametrize("log_gamma", [3, 3.0, torch.tensor(3), torch.tensor(3.0)])
def test_dtypes_of_prices(log_gamma: torch.Tensor | float) -> None:
    law = FixedInclusion(log_gamma=log_gamma)
    assert law.log_gamma.dtype == torch.float32
    assert law.log_prob(torch.tensor(1.0)).item() == pytest.approx(-math.log1p(math.exp(3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either probs, in .* or log_gamma"),
        ({"probs": 0.5, "log_gamma": 1.0}, "give either probs"),
        ({"probs": 0.0}, r"must be in \(0, 1\), got 0 to 0; .*give log_gamma"),
        ({"probs": torch.tensor([0.5, 1.0])}, r"must be in \(0, 1\), got 0.5 to 1"),
        ({"probs": math.nan}, "got nan to nan"),
        ({"log_gamma": math.inf}, "must be finite"),
        ({"log_gamma": torch.tensor([0.0, math.nan])}, "must be finite"),
    ],
)
def test_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"FixedInclusion: .*{message}"):
        FixedInclusion(**arguments)


def test_validation_of_values() -> None:
    with pytest.raises(ValueError, match="support"):
        FixedInclusion(0.5, validate_args=True).log_prob(torch.tensor(0.5))


# SS-IG ----------------------------------------------------------------------------------------------------------------


def log_gammas(n: list[int], N: int, c: float) -> list[float]:
    """The method page's formula, word by word: n_0 inputs, n_1 to n_L hidden, n_{L+1} outputs."""
    L = len(n) - 2
    log = math.log
    u = {m: (L + 1) ** 2 * (log(N) + log(L + 1) + log(n[m] + 1) + log(n[m + 1])) for m in range(L + 1)}
    found = []
    for i in range(1, L + 1):
        v = (n[i] + 1) ** 2
        for m in range(L + 1):
            if m != i:
                v += log(n[m] + 1)
        v += L + log(n[i + 1]) + log(n[0] + 1) + log(N) + log(sum(u.values()))
        minus_log_lambda = log(n[i + 1]) + c * (n[i] + 1) * v
        found.append(minus_log_lambda + math.log1p(-math.exp(-minus_log_lambda)))
    return found


@pytest.mark.parametrize("widths", [[784, 400, 400, 10], [13, 50, 2], [3, 7, 20, 5, 4], [1, 1, 2]])
@pytest.mark.parametrize("num_data", [1, 500, 60_000])
@pytest.mark.parametrize("c", [SSIG_C, 1e-4, 0.1])
def test_layer_adaptive_prices_are_the_formula(widths: list[int], num_data: int, c: float) -> None:
    found = layer_adaptive_log_gamma(widths, num_data, c)
    assert found == pytest.approx(log_gammas(widths, num_data, c), rel=1e-12)


def test_layer_adaptive_prices_by_hand() -> None:
    """Widths 1-1-2, N = 1: u_0 = 4 (log 2 + log 2) = 5.5452, u_1 = 4 (log 2 + log 2 + log 2) = 8.3178, so v_1 = 4 +
    log 2 + 1 + log 2 + log 2 + 0 + log 13.8629 = 9.7087; −log λ = log 2 + c · 2 · 9.7087.
    """
    assert layer_adaptive_log_gamma([1, 1, 2], 1, 0.0) == pytest.approx([0.0], abs=1e-12)  # λ = ½
    (found,) = layer_adaptive_log_gamma([1, 1, 2], 1, 0.1)
    minus_log_lambda = 0.693147 + 0.2 * 9.708661
    assert found == pytest.approx(math.log(math.exp(minus_log_lambda) - 1), rel=1e-6)
    assert found == pytest.approx(2.560449, rel=1e-6)


@pytest.mark.parametrize("after", [2, 10, 400])
def test_without_the_exponent_one_in_as_many_as_there_are_units_behind(after: int) -> None:
    """c = 0: λ = 1/n_{l+1}, so log γ = log(n_{l+1} − 1)."""
    assert layer_adaptive_log_gamma([9, 30, after], 100, 0.0) == pytest.approx([math.log(after - 1)], abs=1e-12)


def test_one_unit_behind_and_no_exponent_is_nearly_certain() -> None:
    (found,) = layer_adaptive_log_gamma([9, 30, 1], 100, 0.0)
    assert found == pytest.approx(math.log(1e-6), rel=1e-5)
    assert FixedInclusion(log_gamma=found).probs.item() == pytest.approx(1, abs=2e-6)


def test_wide_layers_are_dear_and_their_price_is_kept_where_their_probability_is_not() -> None:
    (found,) = layer_adaptive_log_gamma([784, 20_000, 10], 60_000)
    v = 20_001**2
    assert found == pytest.approx(math.log(10) + SSIG_C * 20_001 * v, rel=1e-3) and found > 8000
    assert FixedInclusion(log_gamma=found).probs.item() == 0


@pytest.mark.parametrize(
    ("widths", "num_data", "c", "message"),
    [
        ([5, 3], 10, 1e-9, r"at least one hidden layer and outputs, got \[5, 3\]"),
        ([5, 0, 3], 10, 1e-9, "each of the widths must be a whole number, at least 1, got 0"),
        ([5, 4, 3], 0, 1e-9, "num_data must be a whole number, at least 1, got 0"),
        ([5, 4, 3], 10, -1.0, "c must be finite and not negative, got -1.0"),
    ],
)
def test_layer_adaptive_prices_refuse(widths: list[int], num_data: int, c: float, message: str) -> None:
    with pytest.raises(ConfigError, match=f"layer_adaptive_log_gamma: .*{message}"):
        layer_adaptive_log_gamma(widths, num_data, c)


# divergences ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_divergence_is_torchs(dtype: torch.dtype) -> None:
    """Means and scales over many orders of magnitude; to some roundings of the largest of its terms."""
    means = torch.tensor([0.0, 1e-12, 1.0, -30.0, 1e4], dtype=dtype)[:, None, None]
    log_scales = torch.tensor([-30.0, -5.0, -1e-3, 0.0, 1.0, 20.0], dtype=dtype)[None, :, None]
    priors = torch.tensor([1e-4, 0.1, 1.0, 50.0], dtype=dtype)
    found = normal_kl(means, log_scales, priors)
    q = Normal(means.double().expand(5, 6, 1), log_scales.double().exp())
    expected = kl_divergence(q, Normal(torch.zeros(4).double(), priors.double()))
    assert found.dtype == dtype and found.shape == (5, 6, 4)
    terms = expected.abs() + (log_scales - priors.log()).abs().double() * (1 + expected.abs())
    allowed = 64 * torch.finfo(dtype).eps * terms + 1e-15  # the last is torch's own error near the prior
    assert bool(((found.double() - expected).abs() <= allowed).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_divergence_near_the_prior(dtype: torch.dtype) -> None:
    """0 at it, and δ² for log σ = log σ0 + δ: torch's own loses that in roundings of 1."""
    zero = torch.zeros((), dtype=dtype)
    assert normal_kl(zero, zero, 1.0).item() == 0
    delta = 1e-2 if dtype == torch.float32 else 1e-5
    found = normal_kl(zero, zero + delta, 1.0)
    verify_close(found, math.expm1(2 * delta) / 2 - delta, 8 * torch.finfo(dtype).eps * delta, "near the prior")
    assert found.item() == pytest.approx(delta**2, rel=1e-2)


def test_slopes_of_the_normal_divergence() -> None:
    """μ/σ0² and σ²/σ0² − 1."""
    mean = torch.tensor([0.3, -2.0]).double().requires_grad_()
    log_scale = torch.tensor([-3.0, 0.5]).double().requires_grad_()
    slopes = torch.autograd.grad(normal_kl(mean, log_scale, 0.7).sum(), (mean, log_scale))
    torch.testing.assert_close(slopes[0], mean.detach() / 0.49)
    torch.testing.assert_close(slopes[1], (2 * log_scale.detach()).exp() / 0.49 - 1)


def test_entropy() -> None:
    theta = torch.tensor([0.0, 0.5, 1.0, 0.2], dtype=torch.float64)
    expected = [0.0, math.log(2), 0.0, -0.2 * math.log(0.2) - 0.8 * math.log(0.8)]
    assert bernoulli_entropy(theta).tolist() == pytest.approx(expected, abs=1e-15)
