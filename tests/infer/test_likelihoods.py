"""Likelihoods by name: the short way to the loss is the distribution's, and data that do not fit are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import LIKELIHOODS, Likelihood
from bayesprune.infer.likelihoods import Bernoulli, Categorical, Gaussian, get_likelihood

B = 5
MATRIX = torch.linspace(-3, 3, B * 4).view(B, 4).double()
LABELS = torch.tensor([0, 3, 1, 1, 2])

CASES = {
    "categorical": (Categorical(), MATRIX, LABELS),
    "categorical, smoothed": (Categorical(label_smoothing=0.1), MATRIX, LABELS),
    "gaussian": (Gaussian(), MATRIX, MATRIX.flip(0)),
    "gaussian, one target": (Gaussian(scale=0.3), MATRIX[:, 0], MATRIX[:, 1]),
    "gaussian, images": (Gaussian(scale=2.0), MATRIX.view(B, 2, 2), MATRIX.flip(0).view(B, 2, 2)),
    "bernoulli": (Bernoulli(), MATRIX, (MATRIX.flip(1) > 0.5).double()),
    "bernoulli, one target": (Bernoulli(), MATRIX[:, 0], torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).double()),
}


@pytest.mark.parametrize("name", CASES)
def test_nll_is_minus_the_log_probability_of_each_example(name: str) -> None:
    likelihood, outputs, y = CASES[name]
    law = likelihood.distribution(outputs)
    nll = likelihood.nll(outputs, y)
    assert law.batch_shape == (B,) and nll.shape == (B,)
    torch.testing.assert_close(nll, -law.log_prob(y))
    torch.testing.assert_close(nll, torch.cat([likelihood.nll(outputs[i : i + 1], y[i : i + 1]) for i in range(B)]))
    likelihood.check(outputs, y)


@pytest.mark.parametrize("name", [name for name in CASES if "smoothed" not in name])
def test_mean_is_that_of_the_distribution(name: str) -> None:
    likelihood, outputs, _ = CASES[name]
    law = likelihood.distribution(outputs)
    expected = law.probs if isinstance(likelihood, Categorical) else law.mean
    torch.testing.assert_close(likelihood.mean(outputs), expected)


def test_values_by_hand() -> None:
    outputs = torch.tensor([[0.0, math.log(3)]])
    assert Categorical().nll(outputs, torch.tensor([1])).item() == pytest.approx(math.log(4 / 3))
    smoothed = 0.8 * math.log(4 / 3) + 0.2 * (math.log(4 / 3) + math.log(4)) / 2
    assert Categorical(0.2).nll(outputs, torch.tensor([1])).item() == pytest.approx(smoothed)
    y = torch.tensor([[1.0], [3.0]])
    expected = [0.5 * (d / 2) ** 2 + math.log(2 * math.sqrt(2 * math.pi)) for d in (1, 3)]
    assert Gaussian(2.0).nll(torch.zeros(2, 1), y).tolist() == pytest.approx(expected)
    assert Bernoulli().nll(outputs, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(math.log(2) + math.log(4))


def test_bernoulli_targets_may_be_integers() -> None:
    y = torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(Bernoulli().nll(MATRIX[:, 0], y), Bernoulli().nll(MATRIX[:, 0], y.double()))


REFUSED = {
    "a label too high": (Categorical(), MATRIX, torch.tensor([0, 1, 2, 3, 4]), r"run from 0 to 4, but .* \[0, 3\]"),
    "a label below 0": (Categorical(), MATRIX, torch.tensor([0, 1, -1, 3, 2]), r"run from -1 to 3"),
    "labels that are numbers": (Categorical(), MATRIX, torch.ones(B), r"integer labels of shape \(batch,\), got torch"),
    "labels one-hot": (Categorical(), MATRIX, torch.ones(B, 4).long(), r"got torch.int64 of shape \(5, 4\)"),
    "logits without classes": (Categorical(), MATRIX[:, 0], LABELS, r"outputs of shape \(batch, classes\), got \(5,\)"),
    "too few targets": (Categorical(), MATRIX, LABELS[:3], "5 outputs for 3 targets"),
    "targets that would broadcast": (Gaussian(), MATRIX[:, :1], MATRIX[:, 0], r"shape \(5,\), .* outputs \(5, 1\)"),
    "targets of another shape": (Bernoulli(), MATRIX[:, :1], torch.ones(B), r"for one target an example: y\[:, None\]"),
    "targets between 0 and 1": (Bernoulli(), MATRIX[:, 0], torch.full((B,), 0.5), "must be 0 or 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_targets_that_do_not_fit_are_refused(name: str) -> None:
    likelihood, outputs, y, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        likelihood.check(outputs, y)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_scale_that_cannot_be_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="noise scale must be positive and finite"):
        Gaussian(scale)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_label_smoothing_that_cannot_be_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing must be in \[0, 1\)"):
        Categorical(smoothing)


def test_names() -> None:
    for name, kind in LIKELIHOODS.items():
        assert type(get_likelihood(name)) is kind
    own = Gaussian(0.1)
    assert get_likelihood(own) is own
    with pytest.raises(ConfigError, match=r"unknown likelihood 'poisson'; known are bernoulli, categorical, gaussian"):
        get_likelihood("poisson")


def test_a_likelihood_of_ones_own() -> None:
    class Poisson(Likelihood):
        def distribution(self, outputs: Tensor) -> torch.distributions.Poisson:
            return torch.distributions.Poisson(outputs.exp())

        def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
            return -self.distribution(outputs).log_prob(y)

        def mean(self, outputs: Tensor) -> Tensor:
            return outputs.exp()

    poisson = get_likelihood(Poisson())
    poisson.check(MATRIX[:, 0], torch.ones(B))
    with pytest.raises(DataError, match="5 outputs for 2 targets"):
        poisson.check(MATRIX[:, 0], torch.ones(2))
