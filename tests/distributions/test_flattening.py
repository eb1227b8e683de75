"""FlatteningPrior against its definition, evaluated with 60 decimal digits, from log γ = 1e-6 to 1e5."""

from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise

import pytest
import torch
from scipy import integrate
from torch import Tensor

from bayesprune.distributions import FlatteningPrior
from tests.distributions.decimals import (
    DTYPES,
    LOG_GAMMAS,
    VALUES,
    cases,
    cumulative,
    digits_lost,
    log_density,
    mean,
    quantile,
    quantile_slope,
    slope_in_log_gamma,
    slope_in_value,
    variance,
)
from tests.distributions.verify import (
    verify_close,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_prob_and_its_gradients(dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    for x, big_l, dx, dl, where in cases(dtype, VALUES):
        log_prob = FlatteningPrior(big_l).log_prob(x)
        in_x, in_l = torch.autograd.grad(log_prob, (x, big_l))
        expected = log_density(dx, dl)
        size = abs(log_density(Decimal(1), dl)) + abs(log_density(Decimal(1), dl) - expected)
        verify_close(log_prob, float(expected), 8 * finfo.eps * float(size), f"log p, {where}")
        slope = max(float(max(slope_in_value(dx, dl), Decimal(-finfo.max))), -finfo.max)
        if dl > 80 and dx == 0 and slope < -finfo.max / 10:
            assert in_x.item() <= -finfo.max / 10, f"saturated slope, {where}: {in_x.item()}"
        else:
            verify_close(in_x, slope, digits_lost(big_l) * finfo.eps * abs(slope), f"slope in the value, {where}")
        tolerance = digits_lost(big_l) * finfo.eps
        verify_close(in_l, float(slope_in_log_gamma(dx, dl)), tolerance, f"slope in log γ, {where}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_cdf(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    for x, big_l, dx, dl, where in cases(dtype, VALUES):
        cdf = FlatteningPrior(big_l).cdf(x)
        expected = float(cumulative(dx, dl))
        verify_close(
            cdf, expected, 4 * eps if dl > 87 else 8 * eps * expected + torch.finfo(dtype).tiny, f"cdf, {where}"
        )
        (density,) = torch.autograd.grad(cdf, x)
        if dl < 80:
            verify_close(
                density, float(log_density(dx, dl).exp()), 8 * eps * float(log_density(dx, dl).exp()), f"cdf', {where}"
            )
    outside = FlatteningPrior(torch.tensor(3.0, dtype=dtype)).cdf(torch.tensor([-1.0, 2.0], dtype=dtype))
    assert outside.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantile_and_its_gradient(dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    for u, big_l, du, dl, where in cases(dtype, [0.0, 1e-6, 0.1, 0.5, 0.9, 0.99, 0.99999, 1.0]):
        x = FlatteningPrior(big_l).icdf(u)
        (in_l,) = torch.autograd.grad(x, big_l)
        expected = float(quantile(du, dl))
        tolerance = (16 + 2 * min((1 - u.item()) * big_l.item(), 750)) * finfo.eps * expected + finfo.tiny
        verify_close(x, expected, tolerance, f"quantile, {where}")
        verify_close(in_l, float(quantile_slope(du, dl)), 2 * tolerance, f"slope of the quantile, {where}")
        if du in (0, 1):
            assert x.item() == u.item()


@pytest.mark.parametrize("log_gamma", LOG_GAMMAS)
def test_quantile_inverts_cdf(log_gamma: float) -> None:
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))
    lowest = max(0.0, 1 - 700 / log_gamma)  # below it quantiles are no longer normal numbers
    u = torch.linspace(lowest, 1, 101, dtype=torch.float64)
    x = prior.icdf(u)
    assert bool((x.diff() > 0).all()) and x.min() >= 0 and x.max() == 1
    torch.testing.assert_close(prior.cdf(x), u, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("log_gamma", LOG_GAMMAS)
def test_density_integrates_to_the_cdf(log_gamma: float) -> None:
    """∫ p dπ with π = e^−y, down to the smallest normal number, plus the CDF there, is 1."""
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))

    def integrand(y: float) -> float:
        value = torch.tensor(-y, dtype=torch.float64).exp()
        return (prior.log_prob(value).exp() * value).item()

    ends = sorted({0.0, 1.0, 5.0, 20.0, 100.0, min(log_gamma, 650.0), min(log_gamma + 30, 700.0), 700.0})
    mass = sum(integrate.quad(integrand, a, b, epsabs=1e-13)[0] for a, b in pairwise(ends))
    below = prior.cdf(torch.tensor(-700.0, dtype=torch.float64).exp()).item()
    assert mass + below == pytest.approx(1, abs=1e-11)
    assert below < 1e-10 or log_gamma > 670


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_entropy_and_normalizer(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    for log_gamma in LOG_GAMMAS:
        big_l = torch.tensor(log_gamma, dtype=dtype, requires_grad=True)
        prior, dl, where = FlatteningPrior(big_l), Decimal(big_l.item()), f"log γ = {log_gamma}, {dtype}"
        exact_mean, exact_variance = float(mean(dl)), float(variance(dl))
        verify_close(prior.mean, exact_mean, 8 * eps * exact_mean, f"mean, {where}")
        verify_close(prior.variance, exact_variance, 32 * eps * exact_variance, f"variance, {where}")
        gamma = dl.exp()
        slope = float(gamma / (gamma - 1) ** 2 - 1 / dl**2)
        verify_close(
            torch.autograd.grad(prior.mean, big_l)[0], slope, 64 * eps * abs(slope), f"slope of the mean, {where}"
        )
        verify_close(
            prior.entropy(), float(-log_density(Decimal(1), dl) - dl / 2), 4 * eps * log_gamma, f"entropy, {where}"
        )
        normalizer = float(log_density(Decimal(0), dl))
        verify_close(prior.log_normalizer, normalizer, 4 * eps * log_gamma, f"normalizer, {where}")


@pytest.mark.parametrize("log_gamma", [1e-6, 0.7, 1.3, 18.0, 100.0])
def test_moments_agree_with_quadrature(log_gamma: float) -> None:
    """Mean, variance and entropy as integrals over quantiles, ∫ h(icdf(u)) du."""
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))

    def expectation(h: Callable[[Tensor], Tensor]) -> float:
        return integrate.quad(
            lambda u: h(prior.icdf(torch.tensor(u, dtype=torch.float64))).item(), 0, 1, epsabs=1e-13, limit=200
        )[0]

    assert expectation(lambda x: x) == pytest.approx(prior.mean.item(), rel=1e-9)
    assert expectation(lambda x: (x - prior.mean) ** 2) == pytest.approx(prior.variance.item(), rel=1e-9)
    assert expectation(lambda x: -prior.log_prob(x)) == pytest.approx(prior.entropy().item(), abs=1e-9)


@pytest.mark.parametrize("log_gamma", [1e-3, 0.999, 1.001, 18.0])
def test_gradcheck(log_gamma: float) -> None:
    big_l = torch.tensor([log_gamma], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    for method in (FlatteningPrior.log_prob, FlatteningPrior.cdf, FlatteningPrior.icdf, FlatteningPrior.penalty):
        assert torch.autograd.gradcheck(lambda v, g, method=method: method(FlatteningPrior(g), v), (x, big_l))
    for moment in (FlatteningPrior.mean, FlatteningPrior.variance):
        assert torch.autograd.gradcheck(lambda g, moment=moment: moment.fget(FlatteningPrior(g)), (big_l,))
