"""Classes that count differently, and labels of every pixel, against torch's own cross-entropy and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, Bernoulli, Categorical, Gaussian
from bayesprune.infer.targets import WeightedTargets, losses
from bayesprune.training import Settings, fit

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 2, 0, 1])
IMAGES = torch.randn(6, 3, 4, 2, generator=GENERATOR)
MASKS = torch.randint(0, 3, (6, 4, 2), generator=GENERATOR)
WEIGHTS = [0.5, 0.0, 2.0]


@pytest.mark.parametrize(("outputs", "y"), [(LOGITS, LABELS), (IMAGES, MASKS), (IMAGES.flatten(2), MASKS.flatten(1))])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_are_those_of_torch_summed_over_an_example(outputs: Tensor, y: Tensor, weights: list | None) -> None:
    likelihood = Categorical(class_weight=weights)
    expected = F.cross_entropy(outputs, y, weight=None if weights is None else torch.tensor(weights), reduction="none")
    expected = expected.flatten(1).sum(1) if expected.dim() > 1 else expected
    torch.testing.assert_close(likelihood.nll(outputs, y), expected)
    law = likelihood.distribution(outputs)
    assert law.batch_shape == (6,) and law.event_shape == y.shape[1:]
    torch.testing.assert_close(-law.log_prob(y), expected)
    torch.testing.assert_close(-law.expand((2, 6)).log_prob(y), expected.expand(2, 6))
    likelihood.check(outputs, y)


def test_a_batch_is_not_divided_by_its_weights() -> None:
    """Unlike torch's ``reduction="mean"``, so that the loss of a data set is the mean over its batches."""
    likelihood = Categorical(class_weight=WEIGHTS)
    w = torch.tensor(WEIGHTS)[LABELS]
    mean = F.cross_entropy(LOGITS, LABELS, weight=torch.tensor(WEIGHTS))
    assert float(likelihood.nll(LOGITS, LABELS).mean()) == pytest.approx(float(mean * w.sum() / 6))


@pytest.mark.parametrize(("outputs", "y"), [(LOGITS, LABELS), (IMAGES, MASKS)])
def test_smoothing_and_weights_together(outputs: Tensor, y: Tensor) -> None:
    likelihood = Categorical(0.2, class_weight=WEIGHTS)
    each = F.cross_entropy(outputs, y, reduction="none", label_smoothing=0.2) * torch.tensor(WEIGHTS)[y]
    expected = each.flatten(1).sum(1) if each.dim() > 1 else each
    assert torch.equal(likelihood.nll(outputs, y), expected)
    torch.testing.assert_close(-likelihood.distribution(outputs).log_prob(y), expected)


def test_weights_of_classes_and_of_examples_multiply() -> None:
    weighted = WeightedTargets(LABELS, torch.arange(6.0))
    found = losses(Categorical(class_weight=WEIGHTS), LOGITS, weighted)
    torch.testing.assert_close(
        found, torch.arange(6.0) * F.cross_entropy(LOGITS, LABELS, torch.tensor(WEIGHTS), reduction="none")
    )


def test_balanced_weights_give_the_rates_of_equal_classes() -> None:
    """A network that knows nothing says ½ of two classes, whatever their numbers; without weights their frequencies."""
    torch.manual_seed(0)
    y = (torch.arange(100) < 20).long()
    x = torch.ones(100, 1)
    settings = Settings(lr=0.1, schedule={"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0})
    for weights, rate in ((None, 0.2), ([100 / (2 * 80), 100 / (2 * 20)], 0.5)):
        net = nn.Sequential(layers.Gate(1, theta=1.0), nn.Linear(1, 2))
        bnn = BayesianNet(net, Categorical(class_weight=weights), num_data=100, weight_precision=0.0)
        fit(bnn, [(x, y)], epochs=250, settings=settings)
        assert bnn.predict(x[:1], 0).mean[0, 1].item() == pytest.approx(rate, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int8, torch.bool])
def test_labels_of_any_whole_numbers(dtype: torch.dtype) -> None:
    y = (LABELS > 1) if dtype == torch.bool else LABELS.to(dtype)
    likelihood = Categorical()
    likelihood.check(LOGITS, y)
    assert torch.equal(likelihood.nll(LOGITS, y), likelihood.nll(LOGITS, y.long()))
    assert likelihood.observed(y).dtype == torch.int64


def test_fractions_right_by_hand() -> None:
    assert Categorical().right(torch.eye(3), torch.tensor([0, 2, 2])).tolist() == [1, 0, 1]
    assert Categorical().right(
        torch.eye(3)[:, :, None, None].expand(3, 3, 1, 2), torch.tensor([[[0, 1]]] * 3)
    ).tolist() == [
        0.5,
        0.5,
        0,
    ]
    assert Bernoulli().right(torch.tensor([1.0, -1.0, 2.0]), torch.tensor([1, 1, 0])).tolist() == [1, 0, 0]
    assert Bernoulli().right(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])).tolist() == [0.5]
    assert Gaussian().right(LOGITS, LOGITS) is None


def test_which_targets_can_be() -> None:
    assert Categorical().possible(LOGITS, torch.tensor([0, 2, 3, -1, -100, 1])).tolist() == [1, 1, 0, 0, 0, 1]
    assert Bernoulli().possible(LOGITS[:, 0], torch.tensor([0, 1, 0.5, math.nan, -1, 2])).tolist() == [1, 1, 0, 0, 0, 0]
    assert Gaussian().possible(LOGITS[:, 0], torch.tensor([0, math.nan, math.inf, 1, 2, 3])).tolist() == [
        1,
        0,
        0,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("weights", [[1.0, -1.0], [math.nan, 1.0], [0.0, 0.0], [[1.0, 2.0]], []])
def test_weights_of_classes_that_cannot_be(weights: list) -> None:
    with pytest.raises(
        ConfigError, match="class_weight must hold one number a class, finite, not negative and not all 0"
    ):
        Categorical(class_weight=weights)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y", "says"),
    [
        (Categorical(class_weight=[1.0, 2.0]), LOGITS, LABELS, "class_weight has 2 numbers, but .* 3 outputs"),
        (Categorical(), IMAGES, MASKS.flatten(1), r"shape \(batch, 4, 2\), got torch.int64 of shape \(6, 8\)"),
        (Categorical(), IMAGES, LABELS, r"integer labels of shape \(batch, 4, 2\)"),
        (Categorical(), IMAGES, MASKS + 1, "labels run from 1 to 3"),
        (Categorical(), IMAGES, MASKS - 100, "labels run from -100 to -98"),
        (Gaussian(), LOGITS, LOGITS / 0, "the targets hold 18 NaN or infinite values, the first for example 0"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(likelihood: Categorical, outputs: Tensor, y: Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        likelihood.check(outputs, y)


def test_settings_and_state() -> None:
    weighted = Categorical(0.1, class_weight=torch.tensor([1, 2]))
    assert weighted.settings() == {"label_smoothing": 0.1, "class_weight": [1.0, 2.0]}
    assert Categorical().settings() == {"label_smoothing": 0.0}
    assert not weighted.state_dict()
    assert weighted.double().class_weight.dtype == torch.float64


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_images_of_labels_as_a_site_in_its_plate(weights: list | None) -> None:
    net = nn.Sequential(layers.Conv2d(2, 4, 1, gate="unit"), nn.ReLU(), nn.Conv2d(4, 3, 1))
    bnn = BayesianNet(net, Categorical(class_weight=weights), num_data=12)
    x = torch.randn(6, 2, 4, 2)
    trace = poutine.trace(bnn.model).get_trace(x, MASKS.int())
    site = trace.nodes["obs"]
    expected = -bnn.likelihood.nll(bnn(x, trace.nodes["gates"]["value"]), MASKS)
    torch.testing.assert_close(site["fn"].log_prob(site["value"]), expected)
    drawn = poutine.trace(bnn.model).get_trace(x).nodes["obs"]["value"]
    assert drawn.shape == MASKS.shape
    bnn.likelihood.check(IMAGES, drawn)
