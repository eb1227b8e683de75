"""The enumeration against the multivariate normal law of the targets, and against laws that the posterior obeys."""

import math
import time

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logit, logsumexp

from bayesprune.errors import ConfigError, DataError
from bayesprune.selection import ExactPosterior, enumerate_models, sparse_regression
from bayesprune.selection.exact import MAX_INPUTS

SLAB, NOISE = 0.7, 1.3
INCLUSION = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def regression(num_data: int, num_inputs: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated inputs with means, float64."""
    x = torch.randn(num_data, num_inputs, dtype=torch.float64) + 0.5
    x[:, 1:] += 0.8 * x[:, :1]
    return x, x @ torch.linspace(-0.6, 0.8, num_inputs, dtype=torch.float64) + 1.2 + NOISE * torch.randn(num_data)


def orthogonal(num_data: int, num_inputs: int) -> torch.Tensor:
    """Columns of mean 0, orthogonal to each other, of squared lengths N, 4N, 9N, …"""
    x = torch.randn(num_data, num_inputs, dtype=torch.float64)
    lengths = math.sqrt(num_data) * torch.arange(1, num_inputs + 1)
    return torch.linalg.qr(x - x.mean(0)).Q * lengths


def verify_against_the_normal_law(x: torch.Tensor, y: torch.Tensor, posterior: ExactPosterior, tau: float) -> None:
    """All quantities by conditioning the joint normal law of coefficients and targets, model by model, N×N."""
    xs, ys = x.numpy(), y.numpy()
    joint, means, seconds = [], [], []
    for number, model in enumerate(posterior.models.numpy()):
        assert [number >> k & 1 for k in range(3)] == model.astype(int).tolist()
        prior = SLAB**2 * np.diag(model.astype(float))
        law = NOISE**2 * np.eye(len(ys)) + tau**2 + xs @ prior @ xs.T
        evidence = stats.multivariate_normal(np.zeros(len(ys)), law).logpdf(ys)
        assert posterior.log_evidences[number].item() == pytest.approx(evidence, abs=1e-9)
        joint.append(evidence + stats.bernoulli(INCLUSION.numpy()).logpmf(model).sum())
        gain = prior @ xs.T @ np.linalg.inv(law)
        means.append(gain @ ys)
        seconds.append(np.diag(prior - gain @ xs @ prior) + means[-1] ** 2)
    weights = np.exp(joint - logsumexp(joint))
    assert posterior.log_evidence == pytest.approx(logsumexp(joint), abs=1e-9)
    np.testing.assert_allclose(posterior.probabilities, weights, atol=1e-10)
    np.testing.assert_allclose(posterior.inclusion, weights @ posterior.models.numpy(), atol=1e-10)
    np.testing.assert_allclose(posterior.mean, weights @ means, atol=1e-10)
    np.testing.assert_allclose(posterior.variance, weights @ seconds - (weights @ means) ** 2, atol=1e-10)


@pytest.mark.parametrize("num_data", [2, 9])
@pytest.mark.parametrize("tau", [0.0, 1.7])
def test_all_of_it_against_the_normal_law_of_the_targets(num_data: int, tau: float) -> None:
    x, y = regression(num_data)
    posterior = enumerate_models(x, y, inclusion=INCLUSION, slab_scale=SLAB, noise_scale=NOISE, intercept_scale=tau)
    verify_against_the_normal_law(x, y, posterior, tau)


def test_a_flat_intercept_is_the_limit_of_wide_ones() -> None:
    x, y = regression(9)
    flat = enumerate_models(x, y, inclusion=INCLUSION)
    wide = enumerate_models(x, y, inclusion=INCLUSION, intercept_scale=1e6)
    density = -math.log(1e6 * math.sqrt(2 * math.pi))  # of the wide prior near 0; the flat one has 1
    assert wide.log_evidence - density == pytest.approx(flat.log_evidence, abs=1e-8)
    torch.testing.assert_close(wide.probabilities, flat.probabilities)


def test_a_flat_intercept_takes_up_any_shift() -> None:
    x, y = regression(9)
    here, there = (enumerate_models(x + shift, y - 3 * shift, inclusion=0.3) for shift in (0.0, 40.0))
    torch.testing.assert_close(there.log_evidences, here.log_evidences)
    torch.testing.assert_close(there.mean, here.mean)
    without = enumerate_models(x + 40, y - 120, inclusion=0.3, intercept_scale=0.0)
    assert (without.log_evidences - here.log_evidences).abs().max() > 10


def test_orthogonal_inputs_have_a_closed_form() -> None:
    x, prior = orthogonal(50, 4), torch.tensor([0.1, 0.5, 0.2, 0.7], dtype=torch.float64)
    y = x @ torch.tensor([0.6, 0.0, 0.1, -0.04], dtype=torch.float64) + NOISE * torch.randn(50, dtype=torch.float64)
    posterior = enumerate_models(x, y, inclusion=prior, slab_scale=SLAB, noise_scale=NOISE)
    lengths, cross = x.square().sum(0).numpy(), (x.T @ y).numpy()
    variance = 1 / (lengths / NOISE**2 + 1 / SLAB**2)
    mean = variance * cross / NOISE**2
    expected = expit(logit(prior.numpy()) + np.log(variance / SLAB**2) / 2 + mean**2 / (2 * variance))
    assert (expected > 0.1).all() and (expected < 1 - 1e-4).all()  # none is trivial
    np.testing.assert_allclose(posterior.inclusion, expected, rtol=1e-10)
    np.testing.assert_allclose(posterior.mean, expected * mean, rtol=1e-9)
    product = torch.where(posterior.models, torch.from_numpy(expected), 1 - torch.from_numpy(expected)).prod(1)
    torch.testing.assert_close(posterior.probabilities, product)  # ... and are independent a posteriori


def test_two_equal_columns_share_their_probability() -> None:
    x, y = regression(80, 2)
    doubled = torch.stack([x[:, 0], x[:, 0], torch.randn(80, dtype=torch.float64)], 1)
    y = 1.5 * x[:, 0] + torch.randn(80, dtype=torch.float64)
    rare = enumerate_models(doubled, y, inclusion=1e-6)
    assert rare.inclusion.tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-4)
    assert rare.probabilities[[1, 2]].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)  # one or the other, not both
    assert rare.mean[0].item() == pytest.approx(rare.mean[1].item(), rel=1e-9)
    # Both together are one input with twice the slab's variance.
    alone = enumerate_models(x[:, :1], y, inclusion=0.5, slab_scale=math.sqrt(2.0))
    assert rare.log_evidences[3].item() == pytest.approx(alone.log_evidences[1].item(), abs=1e-9)


def test_what_the_data_do_not_speak_of_keeps_its_prior() -> None:
    x, y = regression(20)
    x[:, 1] = 7.0  # a constant, which the flat intercept takes up
    posterior = enumerate_models(x, y, inclusion=INCLUSION, slab_scale=SLAB)
    assert posterior.inclusion[1].item() == pytest.approx(0.5, abs=1e-9)
    assert posterior.mean[1].item() == pytest.approx(0.0, abs=1e-9)
    assert posterior.variance[1].item() == pytest.approx(0.5 * SLAB**2, rel=1e-9)


def test_certain_inclusion_is_kept_and_weighs_no_other_model() -> None:
    x, y = regression(20)
    posterior = enumerate_models(x, y, inclusion=torch.tensor([0.0, 1.0, 0.5]))
    assert posterior.inclusion[:2].tolist() == [0.0, pytest.approx(1.0, abs=1e-12)] and posterior.inclusion[1] <= 1
    assert posterior.probabilities[(posterior.models[:, 0]) | ~posterior.models[:, 1]].tolist() == [0.0] * 6
    assert posterior.mean[0] == 0 and posterior.variance[0] == 0


def test_units_do_not_matter() -> None:
    x, y = regression(20)
    here = enumerate_models(x, y, inclusion=0.3, slab_scale=SLAB, noise_scale=NOISE)
    there = enumerate_models(x, 100 * y, inclusion=0.3, slab_scale=100 * SLAB, noise_scale=100 * NOISE)
    torch.testing.assert_close(there.probabilities, here.probabilities)
    torch.testing.assert_close(there.variance, 1e4 * here.variance)
    # The density of N targets, of which the flat intercept takes one.
    assert there.log_evidence == pytest.approx(here.log_evidence - 19 * math.log(100), abs=1e-8)


def test_the_largest_enumeration_takes_less_than_a_second() -> None:
    problem = sparse_regression(200, MAX_INPUTS, 3, correlation=0.5)
    began = time.perf_counter()
    posterior = enumerate_models(problem.x, problem.y, inclusion=0.25)
    assert time.perf_counter() - began < 1.0
    assert torch.equal(posterior.inclusion > 0.5, problem.support)
    assert posterior.probabilities.shape == (4096,) and posterior.probabilities.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(5, 13)}, ConfigError, "at most 12 inputs.*found 13; use mean_field"),
        ({"x": torch.zeros(5, 0)}, DataError, r"found \(5, 0\); give one row an example"),
        ({"x": torch.zeros(0, 2), "y": torch.zeros(0)}, DataError, r"found \(0, 2\)"),
        ({"x": torch.zeros(5)}, DataError, r"shape \(N, d\).*found \(5,\)"),
        ({"y": torch.zeros(5, 1)}, DataError, r"found \(5, 1\); give y\[:, 0\]"),
        ({"y": torch.zeros(4)}, DataError, "each of 5 examples"),
        (
            {"x": torch.tensor([[0.0]] * 3 + [[math.nan]] * 2)},
            DataError,
            "finite inputs, found 2 .* in example 3; drop",
        ),
        ({"y": torch.tensor([0.0, math.inf, 0.0, 0.0, 0.0])}, DataError, "finite targets, found 1 .* in example 1"),
        ({"inclusion": 1.5}, ConfigError, r"probabilities in \[0, 1\], got 1.5; give π"),
        ({"inclusion": torch.tensor([0.5, math.nan])}, ConfigError, "got nan"),
        ({"inclusion": torch.tensor([0.5])}, ConfigError, r"each of 2 inputs, got shape \(1,\)"),
        ({"slab_scale": 0.0}, ConfigError, "slab_scale must be positive and finite, got 0.0"),
        ({"noise_scale": math.inf}, ConfigError, "noise_scale must be"),
        ({"noise_scale": math.nan}, ConfigError, "noise_scale must be"),
        (
            {"intercept_scale": -1.0},
            ConfigError,
            r"intercept_scale must be in \[0, inf\], got -1.0; 0 stands",
        ),
        ({"intercept_scale": math.nan}, ConfigError, "intercept_scale must be"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        enumerate_models(**{"x": torch.zeros(5, 2), "y": torch.zeros(5), "inclusion": 0.5} | arguments)
