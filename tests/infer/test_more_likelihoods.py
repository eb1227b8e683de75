"""Student's t, noise that depends on inputs, negative binomials and ordered classes, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import Heteroscedastic, LearnedGaussian, Likelihood, NegativeBinomial, Ordinal, StudentT
from bayesprune.infer.likelihoods.gammas import log_rising
from bayesprune.infer.likelihoods.negative_binomial import OverdispersedPrediction
from bayesprune.infer.likelihoods.student_t import StudentPrediction

OUTPUTS = torch.tensor([[0.3, -1.0], [1.2, 0.5], [-0.4, 2.0]]).double()
REALS = torch.tensor([[0.1, 3.0], [-2.5, 0.4], [90.0, 2.0]]).double()
COUNTS = torch.tensor([[0, 3], [12, 1], [5, 400]])


def student(degrees: float = 3.5, scale: float = 0.7) -> StudentT:
    return StudentT(scale, degrees).double()


def agree(likelihood: Likelihood, outputs: Tensor, y: Tensor, expected: np.ndarray) -> None:
    """Loss and law both give these log probabilities, one an example."""
    truth = torch.from_numpy(np.asarray(expected, dtype=np.float64))
    torch.testing.assert_close(-likelihood.nll(outputs, y).detach(), truth, rtol=1e-6, atol=1e-9)
    law = likelihood.distribution(outputs)
    assert law.batch_shape == (len(y),) and likelihood.target_shape(outputs) == y.shape[1:]
    torch.testing.assert_close(law.log_prob(likelihood.observed(y)).detach(), truth, rtol=1e-5, atol=1e-5)
    likelihood.check(outputs, y)


def test_student_t() -> None:
    agree(student(), OUTPUTS, REALS, stats.t.logpdf(REALS, 3.5, OUTPUTS, 0.7).sum(1))


def test_scale_of_an_input() -> None:
    raw = torch.tensor([[-1.0], [0.0], [2.0]]).double()
    sd = np.exp(6 * np.tanh(raw.numpy() / 6))
    outputs, y = torch.cat((OUTPUTS[:, :1], raw), 1), REALS[:, :1]
    agree(Heteroscedastic().double(), outputs, y, stats.norm.logpdf(y, OUTPUTS[:, :1], sd).sum(1))
    torch.testing.assert_close(Heteroscedastic().double().mean(outputs), OUTPUTS[:, :1])


@pytest.mark.parametrize("concentration", [0.4, 3.0, 1e4])
def test_negative_binomial(concentration: float) -> None:
    means = OUTPUTS.exp().numpy()
    c = concentration
    expected = stats.nbinom.logpmf(COUNTS.numpy(), c, c / (c + means)).sum(1)
    agree(NegativeBinomial(c).double(), OUTPUTS, COUNTS, expected)


@pytest.mark.parametrize("many", [15.9, 16.1, 1e4, 1e7])
def test_nothing_cancels_in_single_precision(many: float) -> None:
    """Where logarithms of gamma functions are 1e8, log probabilities are still those of scipy, and slopes finite."""
    outputs, reals, counts = OUTPUTS.float(), REALS[:2].float(), COUNTS[:2].float()
    means = outputs[:2].double().exp().numpy()
    for likelihood, y, expected in (
        (StudentT(0.7, many), reals, stats.t.logpdf(reals, many, outputs[:2], 0.7)),
        (NegativeBinomial(many), counts, stats.nbinom.logpmf(counts, many, many / (many + means))),
    ):
        found = likelihood.nll(outputs[:2], y)
        torch.testing.assert_close(-found.detach(), torch.from_numpy(expected.sum(1)).float(), rtol=1e-5, atol=1e-5)
        found.sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in likelihood.parameters() if p.grad is not None)


def test_ratios_of_gamma_functions() -> None:
    """In double precision to ten digits, on both sides of where the series begins; with the slope of digamma."""
    c = torch.tensor([0.3, 2.0, 15.99, 16.01, 300.0]).double().requires_grad_()
    y = torch.tensor([0.0, 0.5, 7.0, 1e4]).double()[:, None]
    at = c.detach()
    exact = torch.lgamma(at + y) - torch.lgamma(at) - y * at.log()
    found = log_rising(c, y)
    torch.testing.assert_close(found.detach(), exact, rtol=1e-10, atol=1e-10)
    (slopes,) = torch.autograd.grad(found[1].sum(), c)
    torch.testing.assert_close(slopes, torch.digamma(at + 0.5) - torch.digamma(at) - 0.5 / at, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classes_in_order(classes: int) -> None:
    likelihood = Ordinal(classes).double()
    with torch.no_grad():
        likelihood.first -= 0.3
        likelihood.log_gaps += torch.linspace(-1, 1, classes - 2)
    outputs, y = torch.tensor([[-1.0], [0.2], [30.0]]).double(), torch.tensor([0, 1, 0])
    below = stats.logistic.cdf(np.r_[-np.inf, likelihood.cutpoints.detach().numpy(), np.inf] - outputs.numpy())
    agree(likelihood, outputs, y, np.log(np.diff(below)[np.arange(3), y]))
    torch.testing.assert_close(likelihood.mean(outputs).detach(), torch.from_numpy(np.diff(below)))
    prediction = likelihood.summarize(torch.stack((outputs, outputs + 1)))
    expected = likelihood.mean(torch.stack((outputs, outputs + 1))).mean(0)
    torch.testing.assert_close(prediction.log_prob(y).exp(), expected.gather(1, y[:, None])[:, 0])
    best = torch.from_numpy(np.diff(below).argmax(1))
    assert likelihood.right(outputs, best).tolist() == [1, 1, 1]
    assert likelihood.right(outputs, (best + 1) % classes).tolist() == [0, 0, 0]


@torch.no_grad()
def test_priors_integrate_to_1() -> None:
    """Of log ν and log c over the line, and of cut points over the plane; sums over a grid, which smooth ones equal."""
    grid = torch.arange(-12.0, 28.0, 0.4).double()
    for likelihood, parameter, rest in (
        (student(), "log_degrees", LearnedGaussian(0.7).double().penalty()),
        (NegativeBinomial().double(), "log_concentration", 0.0),
    ):
        density = torch.zeros(())
        for value in grid:
            getattr(likelihood, parameter).fill_(value)
            density = density + (rest - likelihood.penalty()).exp()
        assert float(0.4 * density) == pytest.approx(1, abs=1e-4)
    cuts, total = Ordinal(3).double(), torch.zeros(())
    for first in torch.arange(-16.0, 12.0, 0.8):
        for gap in torch.arange(-10.0, 4.0, 0.5):
            cuts.first.fill_(first)
            cuts.log_gaps.fill_(gap)
            total = total + (-cuts.penalty()).exp()
    assert float(0.4 * total) == pytest.approx(1, abs=2e-3)


@torch.no_grad()
def test_student_predictions_are_those_of_the_mixture() -> None:
    samples = torch.tensor([[[0.0], [5.0]], [[2.0], [5.5]]]).double()
    prediction = student(3.0).summarize(samples)
    assert isinstance(prediction, StudentPrediction)
    y = torch.tensor([[1.0], [9.0]]).double()
    density = stats.t.pdf(y, 3.0, samples, 0.7).mean(0)[:, 0]
    torch.testing.assert_close(prediction.log_prob(y), torch.from_numpy(np.log(density)), rtol=1e-6, atol=0)
    for level in (0.5, 0.95):
        low, high = prediction.interval(level)
        for bound, p in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
            below = stats.t.cdf(bound, 3.0, samples, 0.7).mean(0)
            np.testing.assert_allclose(below, p, atol=1e-7)
    torch.testing.assert_close(prediction.variance, samples.var(0, correction=0) + 3 * 0.49)
    assert student(1.9).summarize(samples).variance.isinf().all()


def test_intervals_follow_the_noise_of_each_example() -> None:
    outputs = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]).double()  # one sample, two examples
    prediction = Heteroscedastic().double().summarize(outputs)
    low, high = prediction.interval(0.95)
    sd = torch.tensor([[1.0], [math.exp(6 * math.tanh(1 / 6))]]).double()
    torch.testing.assert_close(high - low, 2 * 1.959963984540054 * sd)
    torch.testing.assert_close(prediction.aleatoric, sd.square())


@pytest.mark.parametrize("level", [0.05, 0.8, 0.999])
def test_bounds_of_overdispersed_counts(level: float) -> None:
    means, c = torch.tensor([[0.3, 40.0], [0.9, 300.0]]), 1.5
    low, high = OverdispersedPrediction(means.mean(0), means, c).interval(level)
    counts = np.arange(4000)[:, None]
    below = stats.nbinom.cdf(counts[:, None], c, c / (c + means.double().numpy())).mean(1)
    for bound, p in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
        assert bound.tolist() == (below >= p).argmax(0).tolist()


def test_units_of_targets() -> None:
    """In units of the targets a density is that of standardised ones, divided by the standard deviation."""
    y = 50 + 20 * torch.sin(torch.arange(40.0))[:, None].double()
    standard = (y - y.mean()) / y.std(correction=0)
    outputs = 0.3 * standard.flip(0)
    for likelihood in (LearnedGaussian(0.4), StudentT(0.4), Heteroscedastic()):
        likelihood.double()
        given = outputs if likelihood.name != "heteroscedastic" else torch.cat((outputs, 0.2 * outputs), 1)
        before = likelihood.nll(given, standard)
        location, scale = likelihood.take_units(y)
        there = likelihood.nll(given * scale + location, y)
        torch.testing.assert_close(there, before + y.std(correction=0).log())
        assert likelihood.summarize((given * scale + location)[None]).interval(0.5)[0].mean() > 20
    location, scale = NegativeBinomial().take_units(COUNTS)
    torch.testing.assert_close(location.exp(), (COUNTS.double().sum(0) + 0.5) / 3)
    assert scale.tolist() == [1, 1] and Ordinal(3).take_units(COUNTS) is None


REFUSED = {
    "too few outputs": (Heteroscedastic(), OUTPUTS[:, :1], REALS[:, :1], r"outputs of shape \(batch, 2 D\)"),
    "half a count": (NegativeBinomial(), OUTPUTS, REALS, "negative_binomial likelihood: targets must be counts"),
    "no class": (Ordinal(3), OUTPUTS[:, :1], torch.tensor([0, 1, 3]), "must be from 0 to 2, found 3"),
    "classes that are reals": (Ordinal(3), OUTPUTS[:, :1], torch.ones(3), "integer targets"),
    "two outputs": (Ordinal(3), OUTPUTS, torch.tensor([0, 1, 2]), r"outputs of shape \(batch, 1\)"),
    "targets that would broadcast": (StudentT(), OUTPUTS[:, :1], REALS[:, 0], r"reshape the targets"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_targets_that_do_not_fit_are_refused(name: str) -> None:
    likelihood, outputs, y, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        likelihood.check(outputs, y)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="degrees must be positive"):
        StudentT(degrees=0.0)
    with pytest.raises(ConfigError, match="concentration must be positive"):
        NegativeBinomial(math.nan)
    with pytest.raises(ConfigError, match="num_classes must be a whole number, at least 2"):
        Ordinal(1)
