"""What every distribution must satisfy, called by the tests of each one."""

from collections.abc import Callable

import pyro
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution


def verify_close(actual: Tensor, expected: float, tolerance: float, where: str) -> None:
    """``actual`` is within ``tolerance`` of ``expected``; NaN never is."""
    error = abs(actual.item() - expected)
    assert error <= tolerance, (
        f"{where}: got {actual.item()!r}, expected {expected!r}, error {error:.3g} > {tolerance:.3g}"
    )


def verify_batching(make: Callable[..., Distribution], parameters: list[Tensor], values: Tensor) -> None:
    """A batch equals its elements one by one, and so do its expansion and its independent product.

    ``parameters`` and ``values`` are of shape ``(n,)``.
    """
    batched = make(*parameters)
    n = len(values)
    single = torch.stack([make(*(p[i] for p in parameters)).log_prob(values[i]) for i in range(n)])
    assert batched.batch_shape == (n,) and batched.event_shape == ()
    torch.testing.assert_close(batched.log_prob(values), single, rtol=0, atol=0)
    expanded = batched.expand((3, n))
    assert expanded.batch_shape == (3, n)
    assert expanded._validate_args == batched._validate_args
    assert expanded.sample((2,)).shape == (2, 3, n)
    assert expanded.sample((2,)).dtype == values.dtype
    torch.testing.assert_close(expanded.log_prob(values), single.expand(3, n), rtol=0, atol=0)
    torch.testing.assert_close(expanded.mean, batched.mean.expand(3, n), rtol=0, atol=0)
    torch.testing.assert_close(expanded.variance, batched.variance.expand(3, n), rtol=0, atol=0)
    torch.testing.assert_close(batched.to_event(1).log_prob(values), single.sum())


def verify_batched_cdf(make: Callable[..., Distribution], parameters: list[Tensor], values: Tensor) -> None:
    """The distribution function of a batch is that of its elements, as in `verify_batching`."""
    single = [make(*(p[i] for p in parameters)).cdf(value) for i, value in enumerate(values)]
    torch.testing.assert_close(make(*parameters).cdf(values), torch.stack(single))


def verify_pyro_site(distribution: Distribution) -> None:
    """``pyro.sample`` records draws with the log-probability of the distribution, also in a plate."""
    n = distribution.batch_shape[0]

    def model() -> None:
        pyro.sample("vector", distribution.to_event(1))
        with pyro.plate("plate", n):
            pyro.sample("each", distribution)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    for name in ("vector", "each"):
        site = trace.nodes[name]
        torch.testing.assert_close(site["log_prob_sum"], distribution.log_prob(site["value"]).sum())
    conditioned = pyro.poutine.condition(model, data={"vector": trace.nodes["each"]["value"]})
    value = pyro.poutine.trace(conditioned).get_trace().nodes["vector"]["value"]
    torch.testing.assert_close(value, trace.nodes["each"]["value"], rtol=0, atol=0)


def verify_uniform(u: Tensor, failure_rate: float) -> None:
    """``u`` is a sample of Uniform(0, 1) by a Kolmogorov-Smirnov test that fails a right sample at ``failure_rate``."""
    p_value = stats.kstest(u.double().numpy(), "uniform").pvalue
    assert p_value > failure_rate, f"Kolmogorov-Smirnov p-value {p_value:.3g} of {len(u)} samples"


def verify_share(hits: Tensor, probability: float, failure_rate: float) -> None:
    """The share of true entries is that of independent Bernoulli draws, by an exact binomial test."""
    p_value = stats.binomtest(int(hits.sum()), hits.numel(), probability).pvalue
    assert p_value > failure_rate, (
        f"{int(hits.sum())} of {hits.numel()} where {probability} is expected (p-value {p_value:.3g})"
    )
