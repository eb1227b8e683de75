"""Predictive summaries against hand computation, numbers at the extremes, and SciPy's normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import (
    Bernoulli,
    Categorical,
    ClassPrediction,
    Gaussian,
    LearnedGaussian,
    Likelihood,
    Prediction,
    RealPrediction,
)


def entropy(*p: float) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def classes(probabilities: list, likelihood: Likelihood | None = None) -> ClassPrediction:
    """From class probabilities, shape (num_samples, B, K)."""
    prediction = (likelihood or Categorical()).summarize(torch.tensor(probabilities, dtype=torch.float64).log())
    assert isinstance(prediction, ClassPrediction)
    return prediction


def real(outputs: Tensor, likelihood: Likelihood) -> RealPrediction:
    prediction = likelihood.summarize(outputs)
    assert isinstance(prediction, RealPrediction)
    return prediction


# classes --------------------------------------------------------------------------------------------------------------


def test_two_samples_of_classes_by_hand() -> None:
    """Samples that agree, that are sure of different classes, and that differ a little."""
    prediction = classes([[[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]], [[0.5, 0.5], [0.0, 1.0], [0.6, 0.4]]])
    torch.testing.assert_close(prediction.mean, torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.75, 0.25]]).double())
    expected = [math.log(2), math.log(2), entropy(0.75, 0.25)]
    assert prediction.entropy.tolist() == pytest.approx(expected, abs=1e-15)
    third = entropy(0.75, 0.25) - (entropy(0.9, 0.1) + entropy(0.6, 0.4)) / 2
    assert prediction.mutual_information.tolist() == pytest.approx([0, math.log(2), third], abs=1e-15)
    log_prob = prediction.log_prob(torch.tensor([0, 1, 0]))
    assert log_prob.tolist() == pytest.approx([math.log(0.5), math.log(0.5), math.log(0.75)], abs=1e-15)


def test_one_sample_knows_nothing_of_the_network() -> None:
    prediction = Categorical().summarize(3 * torch.randn(1, 50, 7))
    assert isinstance(prediction, ClassPrediction)
    assert torch.equal(prediction.mean, prediction.samples[0])
    assert torch.equal(prediction.mutual_information, torch.zeros(50))
    law = torch.distributions.Categorical(logits=prediction.log_probs[0])
    torch.testing.assert_close(prediction.entropy, law.entropy())


@pytest.mark.parametrize("num_samples", [2, 7, 32])
def test_equal_samples_have_no_mutual_information(num_samples: int) -> None:
    prediction = Categorical().summarize(torch.randn(1, 200, 10).expand(num_samples, -1, -1))
    assert isinstance(prediction, ClassPrediction)
    information = prediction.mutual_information
    assert float(information.min()) >= 0 and float(information.max()) < 1e-6


def test_mutual_information_is_the_mean_divergence_from_the_mean() -> None:
    prediction = Categorical().summarize(torch.randn(5, 20, 4).double())
    assert isinstance(prediction, ClassPrediction)
    p, mean = prediction.samples, prediction.mean
    divergence = (p * (p.log() - mean.log())).sum(-1).mean(0)
    torch.testing.assert_close(prediction.mutual_information, divergence)
    assert float(divergence.min()) > 0.01


def test_probabilities_of_exactly_0_and_1() -> None:
    for logits in ([[0.0, -math.inf, -math.inf]], [[1e4, 0.0, -1e4]]):
        prediction = Categorical().summarize(torch.tensor([logits, logits]))
        assert isinstance(prediction, ClassPrediction)
        assert prediction.entropy.tolist() == [0] and prediction.mutual_information.tolist() == [0]
        assert prediction.log_prob(torch.tensor([0])).tolist() == [0]
        assert prediction.log_prob(torch.tensor([2])).tolist() == [logits[0][2] - logits[0][0]]
    sure = Bernoulli().summarize(torch.tensor([[[-math.inf, 1e4]]]))
    assert isinstance(sure, ClassPrediction)
    assert sure.mean.tolist() == [[0, 1]] and sure.entropy.tolist() == [0] and sure.mutual_information.tolist() == [0]
    assert sure.log_prob(torch.tensor([[0, 1]])).tolist() == [0]
    assert sure.log_prob(torch.tensor([[0, 0]])).tolist() == [-1e4]


def test_probabilities_of_labels_are_not_smoothed() -> None:
    prediction = classes([[[0.9, 0.1]], [[0.5, 0.5]]], Categorical(label_smoothing=0.3))
    assert prediction.log_prob(torch.tensor([1])).tolist() == pytest.approx([math.log(0.3)])


def test_binary_targets_by_hand() -> None:
    """Two entries a target: entropies add up, and the probability of a target is joint within a sample."""
    p = torch.tensor([[[0.9, 0.2]], [[0.5, 0.6]]], dtype=torch.float64)
    prediction = Bernoulli().summarize(p.logit())
    assert isinstance(prediction, ClassPrediction)
    torch.testing.assert_close(prediction.mean, torch.tensor([[0.7, 0.4]]).double())
    total = entropy(0.7, 0.3) + entropy(0.4, 0.6)
    assert prediction.entropy.tolist() == pytest.approx([total])
    within = (entropy(0.9, 0.1) + entropy(0.2, 0.8) + entropy(0.5, 0.5) + entropy(0.6, 0.4)) / 2
    assert prediction.mutual_information.tolist() == pytest.approx([total - within])
    joint = math.log((0.9 * 0.8 + 0.5 * 0.4) / 2)
    assert prediction.log_prob(torch.tensor([[1, 0]])).tolist() == pytest.approx([joint])
    assert prediction.log_prob(torch.tensor([[True, False]])).tolist() == pytest.approx([joint])


def test_one_binary_target_is_one_of_two_classes() -> None:
    outputs = torch.randn(6, 9).double()
    binary = Bernoulli().summarize(outputs)
    both = Categorical().summarize(torch.stack((torch.zeros_like(outputs), outputs), -1))
    assert isinstance(binary, ClassPrediction) and isinstance(both, ClassPrediction)
    y = torch.arange(9) % 2
    torch.testing.assert_close(binary.mean, both.mean[:, 1])
    torch.testing.assert_close(binary.entropy, both.entropy)
    torch.testing.assert_close(binary.mutual_information, both.mutual_information)
    torch.testing.assert_close(binary.log_prob(y.double()), both.log_prob(y))


# real targets ---------------------------------------------------------------------------------------------------------


def test_variances_by_hand() -> None:
    """Means 0 and 4 of one entry, 1 and 1 of the other: the law of total variance."""
    prediction = real(torch.tensor([[[0.0, 1.0]], [[4.0, 1.0]]]), Gaussian(0.5))
    assert prediction.mean.tolist() == [[2, 1]]
    assert prediction.epistemic.tolist() == [[4, 0]]
    assert prediction.aleatoric.tolist() == [[0.25, 0.25]]
    assert prediction.variance.tolist() == [[4.25, 0.25]]


def test_noise_that_differs_from_sample_to_sample() -> None:
    scale = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    samples = torch.zeros(2, 1, 1)
    prediction = RealPrediction(samples.mean(0), samples, scale)
    assert prediction.aleatoric.tolist() == [[5]] and prediction.epistemic.tolist() == [[0]]
    density = (stats.norm.pdf(0.7) + stats.norm.pdf(0.7, scale=3)) / 2
    assert prediction.log_prob(torch.full((1, 1), 0.7)).tolist() == pytest.approx([math.log(density)])
    high = float(prediction.interval(0.9)[1])
    assert (stats.norm.cdf(high) + stats.norm.cdf(high, scale=3)) / 2 == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_are_quantiles_of_the_mixture(dtype: torch.dtype, level: float) -> None:
    """One mode, some, and modes far apart: the mass below each bound, by SciPy."""
    outputs = torch.randn(9, 40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 3.0, 30.0])
    outputs = outputs.to(dtype)
    scales = torch.tensor([0.2, 0.5, 1.0], dtype=dtype)
    likelihood = LearnedGaussian(shape=(3,)).to(dtype)
    with torch.no_grad():
        likelihood.log_scale.copy_(scales.log())
        prediction = real(outputs, likelihood)
    for bound, mass in zip(prediction.interval(level), ((1 - level) / 2, (1 + level) / 2), strict=True):
        assert bound.dtype == dtype and bound.shape == (40, 3)
        below = stats.norm.cdf(bound.double().numpy(), outputs.double().numpy(), scales.double().numpy()).mean(0)
        np.testing.assert_allclose(below, mass, atol=1e-6 if dtype == torch.float32 else 1e-12)


def test_intervals_of_one_sample_are_normal_quantiles() -> None:
    outputs = torch.linspace(-5, 5, 11).double()[None]
    prediction = real(outputs, Gaussian(0.3))
    assert torch.equal(prediction.epistemic, torch.zeros(11).double())
    for level in (0.5, 0.95, 1 - 1e-12):  # far out, the upper bound is as exact as the lower
        low, high = prediction.interval(level)
        width = -0.3 * stats.norm.ppf((1 - level) / 2)
        torch.testing.assert_close(high, outputs[0] + width, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(low, outputs[0] - width, rtol=1e-12, atol=1e-12)


def test_default_interval_covers_95_percent_and_moment_matching_would_not() -> None:
    """Two modes far apart with little noise: the interval ends within the modes, 1.645 noise scales from their tops."""
    low, high = real(torch.tensor([[-100.0], [100.0]]).double(), Gaussian(1.0)).interval()
    assert float(high) == pytest.approx(100 - stats.norm.ppf(0.05), abs=1e-9)
    assert float(low) == pytest.approx(-float(high))


def test_log_density_by_hand() -> None:
    """Joint over the entries of a target, within each sample."""
    outputs = torch.tensor([[[0.0, 1.0]], [[2.0, -1.0]]]).double()
    prediction = real(outputs, Gaussian(0.5))
    y = torch.tensor([[0.5, 0.25]]).double()
    densities = stats.norm.pdf(y.numpy(), outputs.numpy(), 0.5).prod(-1)
    assert prediction.log_prob(y).tolist() == pytest.approx([math.log(densities.mean())])


def test_log_density_far_from_all_samples_is_finite() -> None:
    prediction = real(torch.tensor([[0.0], [1.0]]), Gaussian(1e-2))
    expected = -0.5 * (1e3 - 1) ** 2 / 1e-4 - math.log(1e-2 * math.sqrt(2 * math.pi)) - math.log(2)
    assert prediction.log_prob(torch.tensor([1e3])).tolist() == pytest.approx([expected])


MATRIX = torch.linspace(-3, 3, 24).sin().view(6, 4)
LIKELIHOODS = {
    "categorical": (Categorical(), MATRIX[None], torch.arange(6) % 3),
    "bernoulli": (Bernoulli(), MATRIX[None, :, 0], torch.arange(6) % 2),
    "gaussian": (Gaussian(0.7), MATRIX[None], MATRIX.flip(0)),
    "gaussian, one target": (Gaussian(0.7), MATRIX[None, :, 0], MATRIX[:, 1]),
    "gaussian, images": (LearnedGaussian(0.7), MATRIX.view(1, 6, 2, 2), MATRIX.flip(1).view(6, 2, 2)),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_of_one_sample_is_that_of_the_likelihood(name: str) -> None:
    likelihood, outputs, y = LIKELIHOODS[name]
    with torch.no_grad():
        prediction = likelihood.summarize(outputs)
        assert isinstance(prediction, ClassPrediction | RealPrediction)
        torch.testing.assert_close(prediction.log_prob(y), -likelihood.nll(outputs[0], y))


# which summary a likelihood gets --------------------------------------------------------------------------------------


def test_the_noise_of_a_prediction_stays_as_it_was() -> None:
    likelihood = LearnedGaussian(2.0)
    with torch.no_grad():
        prediction = real(torch.zeros(3, 4), likelihood)
        likelihood.log_scale.zero_()
    torch.testing.assert_close(prediction.aleatoric, torch.full((4,), 4.0))


def test_a_likelihood_of_ones_own_gets_mean_and_samples() -> None:
    """Its ``mean`` sees one batch at a time, as it does in training."""

    class TwoHeads(Likelihood):
        def distribution(self, outputs: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(outputs[:, 0], outputs[:, 1].exp())

        def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
            return -self.distribution(outputs).log_prob(y)

        def mean(self, outputs: Tensor) -> Tensor:
            return outputs[:, 0]

    outputs = torch.arange(12.0).view(3, 2, 2)
    prediction = TwoHeads().summarize(outputs)
    assert type(prediction) is Prediction
    assert prediction.samples.tolist() == [[0, 2], [4, 6], [8, 10]] and prediction.mean.tolist() == [4, 6]

    class Summed(TwoHeads):
        def summarize(self, outputs: Tensor) -> RealPrediction:
            samples = outputs[..., 0]
            return RealPrediction(samples.mean(0), samples, outputs[..., 1].exp())

    aleatoric = real(outputs, Summed()).aleatoric
    torch.testing.assert_close(aleatoric, (2 * outputs[..., 1]).exp().mean(0))


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95, float("nan")])
def test_a_level_that_cannot_be_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match=r"level must be in \(0, 1\), got"):
        real(torch.zeros(2, 3), Gaussian()).interval(level)


def test_targets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected targets of shape \(3, 1\), got \(3,\)"):
        real(torch.zeros(2, 3, 1), Gaussian()).log_prob(torch.zeros(3))
    prediction = classes([[[0.5, 0.5]] * 3])
    with pytest.raises(DataError, match=r"expected targets of shape \(3,\), got \(2,\)"):
        prediction.log_prob(torch.tensor([0, 1]))
    for y in ([0, 1, 2], [0, -1, 0], [0.0, 0.5, 1.0], [0.0, float("nan"), 1.0]):
        with pytest.raises(DataError, match="whole numbers from 0 to 1"):
            prediction.log_prob(torch.tensor(y))
