"""Likelihoods: the short way to the loss is the distribution's, priors are exact, and data that do not fit are refused.

Weighted examples are compared with repeated ones.
"""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import (
    BatchObjective,
    BayesianNet,
    GateELBO,
    LearnedGaussian,
    Likelihood,
    get_estimator,
)
from bayesprune.infer.likelihoods import LIKELIHOODS, Bernoulli, Categorical, Gaussian, get_likelihood
from bayesprune.infer.objective import Price, total
from bayesprune.infer.targets import WeightedTargets, losses
from tests.infer.nets import learned

B = 5
MATRIX = torch.linspace(-3, 3, B * 4).view(B, 4).double()
LABELS = torch.tensor([0, 3, 1, 1, 2])
WEIGHTS = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]).double()


CASES = {
    "categorical": (Categorical(), MATRIX, LABELS),
    "categorical, smoothed": (Categorical(label_smoothing=0.1), MATRIX, LABELS),
    "gaussian": (Gaussian(), MATRIX, MATRIX.flip(0)),
    "gaussian, one target": (Gaussian(scale=0.3), MATRIX[:, 0], MATRIX[:, 1]),
    "gaussian, images": (Gaussian(scale=2.0), MATRIX.view(B, 2, 2), MATRIX.flip(0).view(B, 2, 2)),
    "learned": (learned(0.4), MATRIX, MATRIX.flip(0)),
    "learned, one target": (learned(0.4), MATRIX[:, 0], MATRIX[:, 1]),
    "learned, one scale an entry": (learned([0.2, 0.5, 1.0, 3.0]), MATRIX, MATRIX.flip(0)),
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
    "scales of other entries": (learned([1.0, 2.0]), MATRIX, MATRIX, r"scales have shape \(2,\), .* shape \(4,\)"),
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
    with pytest.raises(ConfigError, match="noise scale must be positive and finite"):
        LearnedGaussian(scale)
    with pytest.raises(ConfigError, match="prior_count must be positive and finite"):
        LearnedGaussian(prior_count=scale)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_label_smoothing_that_cannot_be_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing must be in \[0, 1\)"):
        Categorical(smoothing)


def test_names() -> None:
    for name, kind in LIKELIHOODS.items():
        assert type(get_likelihood(name)) is kind
        assert kind.name == name
    assert {"bernoulli": Bernoulli, "categorical": Categorical, "gaussian": Gaussian}.items() <= LIKELIHOODS.items()
    own = Gaussian(0.1)
    assert get_likelihood(own) is own
    with pytest.raises(ConfigError, match=r"unknown likelihood 'cauchy'; known are bernoulli, categorical, gaussian"):
        get_likelihood("cauchy")


def test_a_likelihood_of_ones_own() -> None:
    class Laplace(Likelihood):
        def distribution(self, outputs: Tensor) -> torch.distributions.Laplace:
            return torch.distributions.Laplace(outputs, 1.0)

        def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
            return -self.distribution(outputs).log_prob(y)

        def mean(self, outputs: Tensor) -> Tensor:
            return outputs

    laplace = get_likelihood(Laplace())
    laplace.check(MATRIX[:, 0], torch.ones(B))
    with pytest.raises(DataError, match="5 outputs for 2 targets"):
        laplace.check(MATRIX[:, 0], torch.ones(2))


def test_a_likelihood_that_is_no_module_is_refused() -> None:
    class Lazy(Gaussian):
        def __init__(self) -> None:
            self.scale = 1.0

    with pytest.raises(ConfigError, match=r"Lazy: its __init__ must begin with super\(\).__init__\(\)"):
        get_likelihood(Lazy())


def test_settings_tell_likelihoods_apart() -> None:
    assert Categorical(0.1).settings() == {"label_smoothing": 0.1}
    assert Gaussian(0.3).eval().settings() == {"scale": 0.3}
    assert Bernoulli().settings() == {}
    assert LearnedGaussian(0.3, (2,), 4.0).settings() == {"scale": 0.3, "shape": (2,), "prior_count": 4.0}
    assert learned(0.7).settings() == learned(0.8).settings()  # where learning has come to is no setting


# weighted examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["categorical", "categorical, smoothed", "gaussian, images", "learned", "bernoulli"])
def test_a_weight_counts_like_repeating_the_example(name: str) -> None:
    likelihood, outputs, y = CASES[name]
    times = torch.tensor([1, 0, 2, 5, 3])
    outputs = outputs.clone().requires_grad_(True)
    weighted = losses(likelihood, outputs, WeightedTargets(y, times.double())).sum()
    again = likelihood.nll(outputs.repeat_interleave(times, 0), y.repeat_interleave(times, 0)).sum()
    torch.testing.assert_close(weighted, again)
    torch.testing.assert_close(*(torch.autograd.grad(loss, outputs)[0] for loss in (weighted, again)))


@pytest.mark.parametrize("name", ["categorical", "gaussian, one target", "learned"])
def test_weighted_targets_as_a_site_in_its_plate(name: str) -> None:
    """Pyro's loss and ours hold each example's loss as often as its weight says; samples have no weights."""
    likelihood, outputs, y = CASES[name]
    inputs, weighted = torch.ones(B, 1).double(), WeightedTargets(y, WEIGHTS.double())
    body = nn.Sequential(layers.Gate(1), nn.Linear(1, outputs[0].numel()))
    net = BayesianNet(body if outputs.dim() > 1 else body.append(nn.Flatten(0)), likelihood, num_data=10).double()
    trace = poutine.trace(net.model).get_trace(inputs, weighted)
    trace.compute_log_prob()
    xi = trace.nodes["gates"]["value"]
    expected = (WEIGHTS * likelihood.nll(net(inputs, xi), y)).mean()
    torch.testing.assert_close(-trace.nodes["obs"]["log_prob_sum"], expected)
    drawn = poutine.trace(net.model).get_trace(inputs).nodes["obs"]["value"]
    assert drawn.shape == y.shape
    likelihood.check(outputs, drawn)
    pyro.clear_param_store()
    rest = total(net).detach() - Price().value(net).detach()
    exact = get_estimator("exact")(BatchObjective(net, inputs, weighted), net.theta, xi, net.price).detach()
    found = GateELBO("exact").loss(net.model, net.guide, inputs, weighted)
    assert found == pytest.approx(float(exact + rest), rel=1e-6)
