"""Likelihoods: the short way to the loss is the distribution's, priors are exact, and data that do not fit are refused.

Learned noise scales and weighted examples are compared with closed forms and with repeated examples.
"""

from __future__ import annotations

import copy
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

B = 5
MATRIX = torch.linspace(-3, 3, B * 4).view(B, 4).double()
LABELS = torch.tensor([0, 3, 1, 1, 2])
WEIGHTS = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]).double()


def learned(scales: list | float, **arguments: float) -> LearnedGaussian:
    """With its noise scales, one or one an entry, at these values."""
    values = torch.tensor(scales, dtype=torch.float64)
    likelihood = LearnedGaussian(shape=tuple(values.shape), **arguments).double()
    likelihood.log_scale.data.copy_(values.log())
    return likelihood


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


# learned noise --------------------------------------------------------------------------------------------------------


def test_without_parameters_there_is_no_penalty() -> None:
    for likelihood in (Categorical(), Gaussian(), Bernoulli()):
        assert likelihood.penalty() == 0 and not likelihood.state_dict()


def test_the_penalty_is_the_prior_of_the_log_scale() -> None:
    """Gamma on the precision, changed to log σ: |dσ⁻²/d log σ| = 2 σ⁻²."""
    sigma = torch.tensor([0.05, 0.3, 1.0, 4.0]).double()
    precision = sigma**-2
    law = torch.distributions.Gamma(torch.tensor(1.5).double(), torch.tensor(1.5 * 0.3**2).double())
    expected = -(law.log_prob(precision) + (2 * precision).log())
    each = [learned(float(value), scale=0.3, prior_count=3.0).penalty() for value in sigma]
    torch.testing.assert_close(torch.stack(each), expected)
    torch.testing.assert_close(learned(sigma.tolist(), scale=0.3, prior_count=3.0).penalty(), expected.sum())
    assert int(expected.argmin()) == 1  # the prior's mode is its guess


@pytest.mark.parametrize("prior_count", [0.5, 1.0, 12.0])
def test_the_prior_of_the_log_scale_integrates_to_1(prior_count: float) -> None:
    grid = torch.linspace(-10, 60, 7001).double()
    density = torch.stack([(-learned(math.exp(t), prior_count=prior_count).penalty()).exp() for t in grid[::10]])
    assert float(torch.trapezoid(density.detach(), grid[::10])) == pytest.approx(1, abs=1e-9)


RESIDUALS = torch.linspace(-1, 2, 24).view(8, 3).double().square() * torch.tensor([0.5, 1.0, 3.0]).double()
SHARED = (RESIDUALS.square().sum() + 4 * 0.7**2) / (24 + 4)  # σ² = (R + ν s²)/(n + ν)
SEPARATE = (RESIDUALS.square().sum(0) + 4 * 0.7**2) / (8 + 4)


@pytest.mark.parametrize("best", [SHARED, SEPARATE], ids=["one scale", "one an entry"])
def test_the_loss_is_stationary_at_the_closed_form_of_the_noise_scale(best: Tensor) -> None:
    likelihood = learned(best.sqrt().tolist(), scale=0.7, prior_count=4.0)
    outputs = torch.randn(8, 3).double()
    loss = likelihood.nll(outputs, outputs + RESIDUALS).mean() + likelihood.penalty() / 8
    (gradient,) = torch.autograd.grad(loss, likelihood.log_scale)
    torch.testing.assert_close(gradient, torch.zeros_like(best), atol=1e-14, rtol=0)
    with torch.no_grad():
        likelihood.log_scale += 0.1
        assert likelihood.nll(outputs, outputs + RESIDUALS).mean() + likelihood.penalty() / 8 > loss


@pytest.mark.parametrize("best", [SHARED, SEPARATE], ids=["one scale", "one an entry"])
def test_training_finds_the_noise_scale(best: Tensor) -> None:
    likelihood = LearnedGaussian(0.7, tuple(best.shape), prior_count=4.0).double()
    torch.testing.assert_close(likelihood.noise_scale.detach(), torch.full_like(best, 0.7))
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = likelihood.nll(torch.zeros_like(RESIDUALS), RESIDUALS).mean() + likelihood.penalty() / 8
        value.backward()
        return value.detach()

    optimizer.step(loss)
    torch.testing.assert_close(likelihood.noise_scale.detach().square(), best, rtol=1e-5, atol=0)


def test_the_noise_scale_of_an_exact_fit_stays_above_0() -> None:
    likelihood = learned(math.sqrt(4 * 0.7**2 / 12), scale=0.7, prior_count=4.0)
    y = torch.ones(8).double()
    loss = likelihood.nll(y, y).mean() + likelihood.penalty() / 8
    (gradient,) = torch.autograd.grad(loss, likelihood.log_scale)
    assert abs(float(gradient)) < 1e-14


def network(likelihood: Likelihood) -> BayesianNet:
    return BayesianNet(
        nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.Tanh(), nn.Linear(4, 2)), likelihood, num_data=8
    )


def test_the_noise_scale_belongs_to_the_network() -> None:
    net, other = network(learned([0.3, 0.4])), network(LearnedGaussian(shape=(2,)))
    assert "likelihood.log_scale" in dict(net.named_parameters()) and not any("log_scale" in n for n in net.weights())
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other.likelihood.noise_scale.detach(), torch.tensor([0.3, 0.4]))
    assert other.double().likelihood.noise_scale.dtype == torch.float64
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.likelihood.log_scale.zero_()
    assert net.likelihood.noise_scale.tolist() == pytest.approx([0.3, 0.4])
    assert twin.likelihood.noise_scale.tolist() == [1, 1]


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


def test_weights_move_the_noise_scale_as_repeated_examples_do() -> None:
    weights = torch.arange(8.0).double()
    best = ((weights[:, None] * RESIDUALS.square()).sum(0) + 4 * 0.7**2) / (weights.sum() + 4)
    likelihood = learned(best.sqrt().tolist(), scale=0.7, prior_count=4.0)
    nll = losses(likelihood, torch.zeros_like(RESIDUALS), WeightedTargets(RESIDUALS, weights))
    (gradient,) = torch.autograd.grad(nll.mean() + likelihood.penalty() / 8, likelihood.log_scale)
    torch.testing.assert_close(gradient, torch.zeros(3).double(), atol=1e-14, rtol=0)


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


def test_fitted_parameters_leave_as_many_residuals_to_the_noise() -> None:
    """σ² = (R + ν s²)/(n + ν − d) is where the derivative of the objective vanishes."""
    likelihood = LearnedGaussian(scale=0.5, prior_count=3.0).double()
    residuals = torch.linspace(-1, 2, 40, dtype=torch.float64)[:, None]
    best = (residuals.square().sum() + 3 * 0.25) / (40 + 3 - 12)
    with torch.no_grad():
        likelihood.log_scale.copy_(0.5 * best.log())
    likelihood.set_fitted_parameters(12)
    loss = likelihood.nll(torch.zeros_like(residuals), residuals).sum() + likelihood.penalty()
    (slope,) = torch.autograd.grad(loss, likelihood.log_scale)
    assert float(slope) == pytest.approx(0, abs=1e-10)
