"""FlatteningPrior against its definition, evaluated with 60 decimal digits, from log γ = 1e-6 to 1e5."""

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from scipy import integrate
from torch import Tensor

from bayesprune.distributions import FlatteningPrior, bernoulli_kl
from bayesprune.errors import BayesPruneError, ConfigError
from tests.distributions.verify import (
    verify_batched_cdf,
    verify_batching,
    verify_close,
    verify_pyro_site,
    verify_share,
    verify_uniform,
)

LOG_GAMMAS = [
    1e-6,
    1e-3,
    0.1,
    0.5,
    0.999,
    1.0,
    1.001,
    1.5,
    4.0,
    18.0,
    60.0,
    87.0,
    88.0,
    100.0,
    500.0,
    708.0,
    709.0,
    1e3,
    1e4,
    1e5,
]
VALUES = [0.0, 1e-37, 1e-30, 1e-9, 1e-3, 0.25, 0.5, 0.75, 0.999, 1 - 1e-7, 1.0]
DTYPES = [torch.float32, torch.float64]
Reference = Callable[[Decimal, Decimal], Decimal]


@pytest.fixture(autouse=True)
def sixty_digits():
    with localcontext(Context(prec=60, Emin=-999999, Emax=999999)):
        yield


def log_density(x: Decimal, log_gamma: Decimal) -> Decimal:
    g = log_gamma.exp() - 1
    return (g / (log_gamma * (1 + g * x))).ln()


def slope_in_value(x: Decimal, log_gamma: Decimal) -> Decimal:
    g = log_gamma.exp() - 1
    return -g / (1 + g * x)


def slope_in_log_gamma(x: Decimal, log_gamma: Decimal) -> Decimal:
    gamma = log_gamma.exp()
    return gamma / (gamma - 1) - 1 / log_gamma - gamma * x / (1 + (gamma - 1) * x)


def cumulative(x: Decimal, log_gamma: Decimal) -> Decimal:
    return (1 + (log_gamma.exp() - 1) * x).ln() / log_gamma


def quantile(u: Decimal, log_gamma: Decimal) -> Decimal:
    return ((u * log_gamma).exp() - 1) / (log_gamma.exp() - 1)


def quantile_slope(u: Decimal, log_gamma: Decimal) -> Decimal:
    gamma, power = log_gamma.exp(), (u * log_gamma).exp()
    return u * power / (gamma - 1) - (power - 1) * gamma / (gamma - 1) ** 2


def mean(log_gamma: Decimal) -> Decimal:
    return 1 / log_gamma - 1 / (log_gamma.exp() - 1)


def variance(log_gamma: Decimal) -> Decimal:
    """E[π²] − E[π]², with π² p(π) integrated by hand."""
    m = mean(log_gamma)
    return 1 / (2 * log_gamma) - m / (log_gamma.exp() - 1) - m * m


def optimum(theta: Decimal, log_gamma: Decimal) -> Decimal:
    return theta / (theta + log_gamma.exp() * (1 - theta))


def objective(s: Decimal, theta: Decimal, log_gamma: Decimal) -> Decimal:
    """KL(Bern(θ) ‖ Bern(π)) − log p(π | γ) at logit π = s, for 0 < θ < 1."""
    log_on, log_off = -(1 + (-s).exp()).ln(), -(1 + s.exp()).ln()
    kl = theta * (theta.ln() - log_on) + (1 - theta) * ((1 - theta).ln() - log_off)
    return kl - log_density(log_on.exp(), log_gamma)


def cases(dtype: torch.dtype, points: list[float]):
    """Every point at every log γ as tensors that require gradients, with the exact decimal numbers that they hold."""
    for log_gamma in LOG_GAMMAS:
        for point in points:
            x = torch.tensor(point, dtype=dtype, requires_grad=True)
            big_l = torch.tensor(log_gamma, dtype=dtype, requires_grad=True)
            yield x, big_l, Decimal(x.item()), Decimal(big_l.item()), f"log γ = {log_gamma}, at {point}, {dtype}"


def digits_lost(log_gamma: Tensor) -> float:
    """Rounding of numbers of the size of log(value) ≥ −750 when they are exponentiated, in units of eps."""
    return 8 + 2 * min(log_gamma.item(), 750)


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_optimal_and_penalty(dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    for theta, big_l, dt, dl, where in cases(dtype, [0.0, 1e-9, 0.02, 0.5, 0.98, 1 - 1e-7, 1.0]):
        prior = FlatteningPrior(big_l)
        best, penalty = prior.optimal(theta), prior.penalty(theta)
        expected = float(optimum(dt, dl))
        verify_close(best, expected, (8 + big_l.item()) * finfo.eps * expected + finfo.tiny, f"π*, {where}")
        const = -log_density(Decimal(0), dl)
        verify_close(penalty, float(dt * dl + const), 4 * finfo.eps * big_l.item(), f"penalty, {where}")
        in_theta, in_l = torch.autograd.grad(penalty, (theta, big_l))
        verify_close(in_theta, big_l.item(), 0.0, f"slope of the penalty in θ, {where}")
        verify_close(in_l, float(dt - 1 + mean(dl)), 8 * finfo.eps, f"slope of the penalty in log γ, {where}")
        slope = dl.exp() / (dt + dl.exp() * (1 - dt)) ** 2
        (best_slope,) = torch.autograd.grad(best, theta)
        if slope < Decimal(finfo.max) / 10:
            tolerance = (16 + 2 * big_l.item()) * finfo.eps * float(slope) + finfo.tiny
            verify_close(best_slope, float(slope), tolerance, f"slope of π*, {where}")
        else:
            assert best_slope.item() >= 1e37, f"saturated slope of π*, {where}: {best_slope.item()}"
        if dt in (0, 1):
            assert best.item() == theta.item(), f"π* is exact at the ends, {where}"


@pytest.mark.parametrize("log_gamma", [1e-6, 1e-2, 1.0, 18.0, 700.0, 1e5])
@pytest.mark.parametrize("theta", [1e-6, 0.1, 0.5, 0.9, 1 - 1e-6])
def test_penalty_is_the_minimum_over_pi(log_gamma: float, theta: float) -> None:
    """The identity of the flattening: a grid over logit π, then golden section, with 60 digits."""
    dl, dt = Decimal(log_gamma), Decimal(theta)
    low, high = -dl - 40, Decimal(40)
    grid = [low + (high - low) * i / 40 for i in range(41)]
    best = min(range(1, 40), key=lambda i: objective(grid[i], dt, dl))
    low, high = grid[best - 1], grid[best + 1]
    golden = (Decimal(5).sqrt() - 1) / 2
    for _ in range(70):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if objective(left, dt, dl) < objective(right, dt, dl):
            high = right
        else:
            low = left
    prior, t = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64)), torch.tensor(theta, dtype=torch.float64)
    verify_close(prior.penalty(t), float(objective(low, dt, dl)), 1e-14 * log_gamma, "the minimum")
    argmin = float(1 / (1 + (-low).exp()))
    verify_close(prior.optimal(t), argmin, 1e-8 * argmin + 1e-300, "the argmin")


@pytest.mark.parametrize("log_gamma", [1e-6, 1.0, 18.0, 600.0])
def test_no_pi_beats_the_penalty(log_gamma: float) -> None:
    """The same identity with the library's own KL and density, the ends θ = 0 and 1 included."""
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))
    theta = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], dtype=torch.float64)
    best = prior.optimal(theta)
    at_best = bernoulli_kl(theta, best) - prior.log_prob(best)
    torch.testing.assert_close(at_best, prior.penalty(theta), rtol=1e-13, atol=1e-14)
    pi = torch.cat([torch.linspace(0, 1, 201, dtype=torch.float64), torch.logspace(-300, 0, 200, dtype=torch.float64)])
    elsewhere = bernoulli_kl(theta, pi[:, None]) - prior.log_prob(pi[:, None])
    assert bool((elsewhere >= prior.penalty(theta) - 1e-12).all())


@pytest.mark.parametrize("log_gamma", [1e-3, 0.999, 1.001, 18.0])
def test_gradcheck(log_gamma: float) -> None:
    big_l = torch.tensor([log_gamma], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    for method in (FlatteningPrior.log_prob, FlatteningPrior.cdf, FlatteningPrior.icdf, FlatteningPrior.penalty):
        assert torch.autograd.gradcheck(lambda v, g, method=method: method(FlatteningPrior(g), v), (x, big_l))
    for moment in (FlatteningPrior.mean, FlatteningPrior.variance):
        assert torch.autograd.gradcheck(lambda g, moment=moment: moment.fget(FlatteningPrior(g)), (big_l,))


@pytest.mark.statistical
@pytest.mark.seed(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log_gamma", [1e-6, 0.5, 5.0, 18.0, 60.0])
def test_samples_follow_the_cdf(log_gamma: float, dtype: torch.dtype) -> None:
    """Fails a right sampler at rate 1e-4 a case, 2e-3 in all, over seeds."""
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=dtype))
    x = prior.sample((20_000,))
    assert x.dtype == dtype and x.min() >= 0 and x.max() <= 1
    verify_uniform(prior.cdf(x), failure_rate=1e-4)
    standard_error = (prior.variance / len(x)).sqrt()
    assert abs(x.double().mean() - prior.mean) < 4 * standard_error  # rate 6e-5


@pytest.mark.statistical
@pytest.mark.seed(4)
def test_samples_at_the_largest_log_gamma() -> None:
    """Most quantiles lie below every positive float there; the others follow the law. Failure rate 2e-4 over seeds."""
    log_gamma = 1e5
    prior = FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))
    x = prior.sample((200_000,))
    smallest = torch.finfo(torch.float64).tiny
    share = -torch.tensor(smallest, dtype=torch.float64).log().item() / log_gamma
    verify_share(x >= smallest, share, failure_rate=1e-4)
    u = prior.cdf(x[x >= smallest])
    verify_uniform((u - (1 - share)) / share, failure_rate=1e-4)


def test_rsample_carries_the_gradient_of_the_quantile() -> None:
    big_l = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = FlatteningPrior(big_l).rsample()
    (slope,) = torch.autograd.grad(x, big_l)
    u = cumulative(Decimal(x.item()), Decimal(2))
    assert slope.item() == pytest.approx(float(quantile_slope(u, Decimal(2))), rel=1e-12)
    assert not FlatteningPrior(big_l).sample().requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_batching(dtype: torch.dtype) -> None:
    log_gamma = torch.tensor([1e-6, 0.5, 2.0, 50.0, 1e3, 1e5], dtype=dtype)
    values = torch.tensor([0.1, 0.0, 1.0, 0.5, 0.0, 1e-3], dtype=dtype)
    verify_batching(FlatteningPrior, [log_gamma], values)
    verify_batched_cdf(FlatteningPrior, [log_gamma], values)
    verify_pyro_site(FlatteningPrior(torch.tensor([0.5, 3.0, 20.0], dtype=dtype)))


def test_a_number_is_a_law_of_the_default_dtype() -> None:
    for prior in (FlatteningPrior(18.0), FlatteningPrior(18), FlatteningPrior(torch.tensor(18))):
        assert prior.log_gamma.dtype == torch.get_default_dtype()
        assert prior.batch_shape == ()
        assert prior.mean.item() == pytest.approx(1 / 18, rel=1e-6)


def test_tends_to_the_uniform_law() -> None:
    prior = FlatteningPrior(torch.tensor(1e-6, dtype=torch.float64))
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(u), torch.zeros_like(u), rtol=0, atol=1e-6)
    torch.testing.assert_close(prior.icdf(u), u, rtol=0, atol=1e-6)
    assert prior.variance.item() == pytest.approx(1 / 12, rel=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("batched", [False, True])
def test_refuses_bad_log_gamma(bad: float, batched: bool) -> None:
    log_gamma = torch.tensor([1.0, bad]) if batched else bad
    with pytest.raises(
        ConfigError, match=rf"FlatteningPrior: log_gamma must be positive.* got {bad}.*Uniform"
    ) as caught:
        FlatteningPrior(log_gamma)
    assert isinstance(caught.value, BayesPruneError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_refuses_values_outside_the_support(bad: float) -> None:
    with pytest.raises(ValueError, match="support"):
        FlatteningPrior(2.0).log_prob(torch.tensor(bad))


@pytest.mark.gpu
def test_agrees_on_cuda() -> None:
    log_gamma = torch.tensor(LOG_GAMMAS, device="cuda")
    prior, on_host = FlatteningPrior(log_gamma), FlatteningPrior(log_gamma.cpu())
    x = prior.sample((7,))
    assert x.device.type == "cuda"
    torch.testing.assert_close(prior.log_prob(x).cpu(), on_host.log_prob(x.cpu()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prior.penalty(x).cpu(), on_host.penalty(x.cpu()), rtol=1e-5, atol=1e-5)
