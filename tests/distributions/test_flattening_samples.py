"""Samples of the flattening prior, its batches, and what it refuses."""

from decimal import Decimal

import pytest
import torch

from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import BayesPruneError, ConfigError
from tests.distributions.decimals import DTYPES, LOG_GAMMAS, cumulative, quantile_slope
from tests.distributions.verify import (
    verify_batched_cdf,
    verify_batching,
    verify_pyro_site,
    verify_share,
    verify_uniform,
)


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
