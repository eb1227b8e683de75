"""SpikeAndSlab against its two parts, and the divergences against sums and integrals."""

import math

import pyro
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS, Importance
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, stats
from torch.distributions import Bernoulli, Normal, kl_divergence

from bayesprune.distributions import SpikeAndSlab, bernoulli_kl
from bayesprune.errors import ConfigError
from tests.distributions.verify import (
    verify_batched_cdf,
    verify_batching,
    verify_close,
    verify_pyro_site,
    verify_share,
    verify_uniform,
)

DTYPES = [torch.float32, torch.float64]
PROBS = [0.0, 1e-30, 0.2, 0.5, 1 - 1e-7, 1.0]
SCALES = [1e-3, 1.0, 40.0]


def law(probs: float, scale: float, dtype: torch.dtype = torch.float64) -> SpikeAndSlab:
    return SpikeAndSlab(torch.tensor(probs, dtype=dtype), torch.tensor(scale, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probs", PROBS)
@pytest.mark.parametrize("scale", SCALES)
def test_log_prob_and_its_gradients(probs: float, scale: float, dtype: torch.dtype) -> None:
    eps, where = torch.finfo(dtype).eps, f"probs {probs}, scale {scale}, {dtype}"
    for z in (0.0, 1e-6, -0.5, 3.0):
        p, s, x = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (probs, scale, z * scale))
        log_prob = SpikeAndSlab(p, s).log_prob(x)
        in_p, in_s, in_x = torch.autograd.grad(log_prob, (p, s, x))
        exact_p, exact_s, exact_x = p.item(), s.item(), x.item()
        if z == 0:
            expected = math.log1p(-exact_p) if exact_p < 1 else -math.inf
            slopes = (-1 / (1 - exact_p) if exact_p < 1 else -torch.finfo(dtype).max, 0.0, 0.0)
        else:
            expected = (math.log(exact_p) if exact_p else -math.inf) + stats.norm.logpdf(exact_x, scale=exact_s)
            slopes = (1 / exact_p if exact_p else torch.finfo(dtype).max, (z * z - 1) / exact_s, -exact_x / exact_s**2)
        if math.isinf(expected):
            assert log_prob.item() == expected and in_p.item() == slopes[0], where
            continue
        verify_close(log_prob, expected, 8 * eps * (1 + abs(expected)), f"log p at {z} scales, {where}")
        for name, slope, exact in zip(("probs", "scale", "value"), (in_p, in_s, in_x), slopes, strict=True):
            tolerance = 16 * eps * (abs(exact) + (1 / exact_s if name == "scale" else 0))
            verify_close(slope, exact, tolerance, f"slope in {name} at {z} scales, {where}")


def test_an_impossible_value_leaves_the_other_gradients_finite() -> None:
    probs = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    scale = torch.ones(4, requires_grad=True)
    log_prob = SpikeAndSlab(probs, scale).log_prob(torch.tensor([0.0, 0.5, 0.5, 0.0]))
    assert log_prob[2:].tolist() == [-math.inf, -math.inf]
    in_probs, in_scale = torch.autograd.grad(log_prob[:2].sum(), (probs, scale))
    assert in_probs.tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert in_scale.tolist() == [0.0, -0.75, 0.0, 0.0]


@pytest.mark.parametrize("probs", PROBS)
@pytest.mark.parametrize("scale", SCALES)
def test_total_mass_cdf_and_moments(probs: float, scale: float) -> None:
    """Atom plus integral of the slab, by quadrature up to every cut and of the second power."""
    distribution = law(probs, scale)

    def density(x: float) -> float:
        return distribution.log_prob(torch.tensor(x, dtype=torch.float64)).exp().item() if x else 0.0

    def integral(h, a: float, b: float) -> float:
        middle = min(max(0.0, a), b)
        return sum(integrate.quad(h, *ends, epsabs=1e-14)[0] for ends in ((a, middle), (middle, b)))

    atom = distribution.log_prob(torch.tensor(0.0, dtype=torch.float64)).exp().item()
    assert atom + integral(density, -12 * scale, 12 * scale) == pytest.approx(1, abs=1e-12)
    for cut in (-2 * scale, -0.1 * scale, 0.0, 0.1 * scale, 3 * scale):
        expected = integral(density, -12 * scale, cut) + (atom if cut >= 0 else 0)
        verify_close(distribution.cdf(torch.tensor(cut, dtype=torch.float64)), expected, 1e-12, f"cdf at {cut}")
    second = integral(lambda x: x * x * density(x), -12 * scale, 12 * scale)
    verify_close(distribution.variance, second, 1e-8 * second, "variance")
    assert distribution.mean.item() == 0


@pytest.mark.statistical
@pytest.mark.seed(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probs", [0.0, 0.3, 1.0])
def test_samples(probs: float, dtype: torch.dtype) -> None:
    """The share of zeros is binomial and the others are normal. Failure rate 2e-4 a case over seeds."""
    distribution = law(probs, 2.5, dtype)
    x = distribution.sample((20_000,))
    assert x.dtype == dtype and not x.requires_grad
    assert not torch.signbit(x[x == 0]).any()
    verify_share(x != 0, float(torch.tensor(probs, dtype=dtype)), failure_rate=1e-4)
    if probs:
        verify_uniform(torch.special.ndtr(x[x != 0] / 2.5), failure_rate=1e-4)


def test_inclusion_prob() -> None:
    value = torch.tensor([0.0, -0.0, 1e-30, -2.0])
    assert SpikeAndSlab(0.3, 1.0).inclusion_prob(value).tolist() == [0, 0, 1, 1]
    assert SpikeAndSlab(1.0, 1.0).inclusion_prob(value).tolist() == [1, 1, 1, 1]
    distribution = law(0.3, 1.0)
    share = distribution.inclusion_prob(distribution.sample((10_000,))).mean()
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / 10_000)  # 4 standard errors


@pytest.mark.parametrize("dtype", DTYPES)
def test_batching(dtype: torch.dtype) -> None:
    probs = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=dtype)
    scale = torch.tensor([1.0, 2.0, 0.1, 3.0, 1.0], dtype=dtype)
    values = torch.tensor([0.0, 0.0, 0.2, -1.0, 0.3], dtype=dtype)
    verify_batching(SpikeAndSlab, [probs, scale], values)
    verify_batched_cdf(SpikeAndSlab, [probs, scale], values)
    verify_pyro_site(SpikeAndSlab(probs, scale))
    assert SpikeAndSlab(probs[:, None], scale).batch_shape == (5, 5)
    assert SpikeAndSlab(0.5, scale).log_prob(scale).dtype == dtype


@pytest.mark.parametrize(
    ("probs", "scale", "message"),
    [
        (-0.1, 1.0, r"probs must be a probability.*got -0\.1"),
        (1.5, 1.0, r"probs must be a probability.*got 1\.5"),
        (math.nan, 1.0, "probs must be a probability.*got nan"),
        (0.5, -1.0, r"scale must be a positive.*got -1\.0"),
        (0.5, 0.0, r"scale must be a positive.*probs=0\), got 0\.0"),
        (0.5, math.nan, "scale must be a positive.*got nan"),
        (0.5, math.inf, "scale must be a positive.*got inf"),
    ],
)
def test_refuses_bad_parameters(probs: float, scale: float, message: str) -> None:
    for number in (float, lambda v: torch.tensor([0.5, v], dtype=torch.float64)):
        with pytest.raises(ConfigError, match=f"SpikeAndSlab: {message}"):
            SpikeAndSlab(number(probs), number(scale))


def test_refuses_nan_values() -> None:
    with pytest.raises(ValueError, match="support"):
        SpikeAndSlab(0.5, 1.0).log_prob(torch.tensor(math.nan))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_kl(dtype: torch.dtype) -> None:
    theta, pi = torch.meshgrid(*[torch.linspace(0.05, 0.95, 7, dtype=dtype)] * 2, indexing="ij")
    expected = kl_divergence(Bernoulli(probs=theta), Bernoulli(probs=pi))
    torch.testing.assert_close(bernoulli_kl(theta, pi), expected, rtol=1e-5, atol=4 * torch.finfo(dtype).eps)
    ends = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype), torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=dtype)
    assert bernoulli_kl(*ends).tolist() == [0.0, 0.0, math.inf, math.inf]
    tiny = torch.tensor(1e-30, dtype=dtype)
    verify_close(bernoulli_kl(torch.tensor(1.0, dtype=dtype), tiny), 30 * math.log(10), 1e-4, "KL from a tiny prior")
    for end in (0.0, 1.0):
        t, p = (torch.tensor(end, dtype=dtype, requires_grad=True) for _ in range(2))
        in_theta, in_pi = torch.autograd.grad(bernoulli_kl(t, p), (t, p))
        assert in_pi.item() == 1 - 2 * end
        assert in_theta.item() == (math.inf if end else -math.inf)
    interior = theta[0, 1:].clone().requires_grad_(), pi[0, :-1].clone().requires_grad_()
    (in_theta, in_pi) = torch.autograd.grad(bernoulli_kl(*interior).sum(), interior)
    t, p = interior[0].detach(), interior[1].detach()
    torch.testing.assert_close(in_theta, torch.logit(t) - torch.logit(p), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(in_pi, (p - t) / (p * (1 - p)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [(0.0, 1.0), (0.3, 0.5), (0.9, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("q", [(0.2, 1.0), (0.7, 0.8), (1 - 1e-9, 1.5)])
def test_kl_is_the_integral_of_the_log_ratio(p: tuple[float, float], q: tuple[float, float]) -> None:
    first, second = law(*p), law(*q)

    def term(x: float) -> float:
        value = torch.tensor(x, dtype=torch.float64)
        log_p = first.log_prob(value)
        return (log_p.exp() * (log_p - second.log_prob(value))).item()

    atom = term(0.0) if p[0] < 1 else 0.0
    slab = 2 * integrate.quad(term, 1e-300, 14 * p[1], epsabs=1e-13)[0] if p[0] > 0 else 0.0
    verify_close(kl_divergence(first, second), atom + slab, 1e-10, f"KL({p} ‖ {q})")


def test_kl_at_its_limits() -> None:
    same = SpikeAndSlab(torch.tensor([0.0, 0.4, 1.0]), 2.0)
    torch.testing.assert_close(kl_divergence(same, same), torch.zeros(3), rtol=0, atol=1e-7)
    assert kl_divergence(law(0.5, 1.0), law(0.0, 1.0)).item() == math.inf
    slabs = kl_divergence(Normal(0.0, 3.0), Normal(0.0, 0.5))
    torch.testing.assert_close(kl_divergence(SpikeAndSlab(1.0, 3.0), SpikeAndSlab(1.0, 0.5)), slabs)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    probs = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    prior = law(0.1, 1.0)
    assert torch.autograd.gradcheck(lambda p, s: kl_divergence(SpikeAndSlab(p, s), prior), (probs, scale))


def atoms(y: torch.Tensor) -> None:
    w = pyro.sample("w", SpikeAndSlab(torch.full((2,), 0.5), 1.0).to_event(1))
    pyro.sample("y", pyro.distributions.Normal(w.sum(), 1.0), obs=y)


@pytest.mark.parametrize("kernel", [NUTS, HMC])
def test_kernels_that_follow_gradients_are_refused_in_one_line(kernel: type) -> None:
    with pytest.raises(ConfigError, match=r"SpikeAndSlab: HMC, NUTS .* would never visit the atom at 0; .*a gate"):
        MCMC(kernel(atoms), num_samples=1, warmup_steps=0, disable_progbar=True).run(torch.tensor(0.3))


def test_guides_with_a_density_are_refused_and_importance_sampling_is_right() -> None:
    """Both off: the exact posterior probability; 4 standard errors, 6e-5."""
    y = torch.tensor(0.3)
    with pytest.raises(ConfigError, match=r"SpikeAndSlab: .*guides with a density"):
        AutoNormal(atoms)(y)
    pyro.set_rng_seed(0)
    sampling = Importance(atoms, num_samples=500).run(y)
    weights = torch.stack([torch.as_tensor(w) for w in sampling.log_weights]).softmax(0)
    off = torch.stack([(trace.nodes["w"]["value"] == 0).all() for trace in sampling.exec_traces]).float()
    evidence = torch.stack([Normal(0.0, (1.0 + k) ** 0.5).log_prob(y).exp() for k in (0, 1, 1, 2)]) / 4
    found, exact = weights @ off, evidence[0] / evidence.sum()
    assert float((found - exact).abs()) < 4 * float((weights * (off - found)).norm())
