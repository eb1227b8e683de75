"""Figures of class probabilities against hand values, torchmetrics, scikit-learn and what probabilities promise."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from bayesprune.errors import BayesPruneError, ConfigError, DataError
from bayesprune.metrics import calibration


def random_probabilities(examples: int, classes: int, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, float64, and labels that follow them."""
    p = (sharpness * torch.randn(examples, classes, dtype=torch.float64)).softmax(1)
    return p, torch.distributions.Categorical(p).sample()


def test_values_by_hand():
    p = torch.tensor([[0.9, 0.1, 0.0], [0.25, 0.5, 0.25], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64)
    found = calibration(p, torch.tensor([0, 1, 1, 2]), bins=4)
    assert found.nll == pytest.approx(-math.log(0.9 * 0.5 * 0.3 * 0.6) / 4)
    assert found.brier == pytest.approx((0.02 + 0.375 + (0.36 + 0.49 + 0.01) + (0.04 + 0.04 + 0.16)) / 4)
    assert found.accuracy == 0.75
    low, second, third, last = found.bins
    edges = [(item.low, item.high, item.count) for item in found.bins]
    assert edges == [(0.0, 0.25, 0), (0.25, 0.5, 0), (0.5, 0.75, 3), (0.75, 1.0, 1)]
    assert all(math.isnan(value) for item in (low, second) for value in (item.confidence, item.accuracy))
    assert (third.confidence, third.accuracy) == pytest.approx((1.7 / 3, 2 / 3))
    assert (last.confidence, last.accuracy) == pytest.approx((0.9, 1.0))
    assert found.ece == pytest.approx((3 * abs(1.7 / 3 - 2 / 3) + 0.1) / 4)


@pytest.mark.parametrize(("examples", "classes", "bins"), [(500, 3, 15), (2000, 10, 10), (7, 2, 3), (300, 5, 1)])
def test_the_figures_are_those_of_the_libraries(examples: int, classes: int, bins: int):
    p, y = random_probabilities(examples, classes)
    found = calibration(p, y, bins)
    expected = multiclass_calibration_error(p, y, num_classes=classes, n_bins=bins)
    assert found.ece == pytest.approx(float(expected), abs=1e-6)  # torchmetrics rounds confidences to float32
    assert found.nll == pytest.approx(log_loss(y, p, labels=range(classes)), rel=1e-12)
    assert found.accuracy == pytest.approx(accuracy_score(y, p.argmax(1)), abs=1e-12)


def test_the_brier_score_of_two_classes_is_twice_that_of_one_of_them():
    p, y = random_probabilities(200, 2)
    assert calibration(p, y).brier == pytest.approx(2 * brier_score_loss(y, p[:, 1]), rel=1e-12)


def test_the_error_is_that_of_the_bins_and_they_hold_all_examples():
    p, y = random_probabilities(1000, 4)
    found = calibration(p, y)
    filled = [item for item in found.bins if item.count]
    assert sum(item.count for item in filled) == 1000
    assert found.ece == pytest.approx(sum(item.count * abs(item.confidence - item.accuracy) for item in filled) / 1000)
    assert found.accuracy == pytest.approx(sum(item.count * item.accuracy for item in filled) / 1000)
    assert all(item.low <= item.confidence < item.high for item in filled)


def test_a_certain_answer_is_in_the_last_bin():
    # The bin from 0.9 holds 1 (right), 0.96 (wrong), 0.98 (right): accuracy 2/3, confidence 0.98.
    p = torch.tensor([[1.0, 0.0], [0.04, 0.96], [0.02, 0.98]], dtype=torch.float64)
    found = calibration(p, torch.tensor([0, 0, 1]), bins=10)
    assert [item.count for item in found.bins] == [0] * 9 + [3]
    assert found.bins[-1].confidence == pytest.approx(0.98)
    assert found.ece == pytest.approx(0.98 - 2 / 3)


def test_right_and_sure_is_perfect_and_wrong_and_sure_is_worst():
    right, wrong = (calibration(torch.eye(3), torch.tensor(y)) for y in ([0, 1, 2], [1, 2, 0]))
    assert (right.nll, right.brier, right.accuracy) == (0.0, 0.0, 1.0)
    assert (wrong.nll, wrong.brier, wrong.accuracy) == (math.inf, 2.0, 0.0)
    assert (right.ece, wrong.ece) == pytest.approx((0.0, 1.0))


def test_saying_nothing_costs_log_c():
    found = calibration(torch.full((8, 4), 0.25), torch.tensor([0, 1, 2, 3] * 2))
    assert found.nll == pytest.approx(math.log(4))
    assert found.brier == pytest.approx(1 - 1 / 4)
    assert found.ece == pytest.approx(0.0, abs=1e-12)


def test_labels_that_follow_the_probabilities_are_calibrated():
    # Each of 15 bins deviates by at most 0.5 / sqrt(count) standard deviations; over 5 of them fails once in 10^6.
    p, y = random_probabilities(20_000, 10)
    for item in calibration(p, y).bins:
        if item.count:
            assert abs(item.confidence - item.accuracy) < 5 * 0.5 / math.sqrt(item.count)
    assert calibration(p.pow(3) / p.pow(3).sum(1, keepdim=True), y).ece > 0.1


def test_log_likelihoods_far_beyond_float32_are_kept_in_float64():
    p = torch.tensor([[0.0, 400.0]], dtype=torch.float64).softmax(1)
    assert calibration(p, torch.tensor([0])).nll == pytest.approx(400.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_of_lower_precision_are_taken(dtype: torch.dtype):
    p, y = random_probabilities(300, 10)
    assert calibration(p.to(dtype), y).brier == pytest.approx(calibration(p, y).brier, rel=0.02)


def test_the_order_of_examples_does_not_matter_and_inputs_stay():
    p, y = random_probabilities(100, 3)
    before = p.clone()
    order = torch.randperm(100)
    one, other = calibration(p, y), calibration(p[order], y[order])
    assert (one.nll, one.brier, one.ece) == pytest.approx((other.nll, other.brier, other.ece))
    assert [item.count for item in one.bins] == [item.count for item in other.bins]
    assert torch.equal(p, before)


def verify_refused(error: type[BayesPruneError], says: tuple[str, ...], call: Callable[[], object]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert [part for part in says if part not in str(caught.value)] == []


HALVES = torch.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("p", "y", "says"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ("at least one example", "(0, 2)")),
        (torch.full((3,), 0.5), torch.tensor([0, 1, 0]), ("(examples, classes)", "(3,)", "1 - p")),
        (torch.ones(3, 1), torch.zeros(3, dtype=torch.int64), ("at least two classes", "(3, 1)")),
        (torch.tensor([[0.5, math.nan]]), torch.tensor([0]), ("finite probabilities", "1 of 2")),
        (torch.tensor([[0.5, 0.5], [2.0, -1.0]]), torch.tensor([0, 1]), ("1 of 2", "row 1", "-1", "softmax")),
        (torch.tensor([[0.5, 0.4], [0.5, 0.5]]), torch.tensor([0, 1]), ("row 0", "sum 0.9")),
        (HALVES, torch.tensor([0, 1]), ("3 rows", "(2,)")),
        (HALVES, torch.eye(3, 2), ("integer label", "one-hot")),
        (HALVES, torch.tensor([0.0, 1.0, 0.0]), ("integer label", "float32")),
        (HALVES, torch.tensor([0, 1, 2]), ("0 to 1", "from 0 to 2")),
        (HALVES, torch.tensor([0, -1, 1]), ("0 to 1", "from -1 to 1")),
    ],
)
def test_what_are_no_probabilities_or_labels_is_refused(p: torch.Tensor, y: torch.Tensor, says: tuple[str, ...]):
    verify_refused(DataError, ("calibration:", *says), lambda: calibration(p, y))


def test_no_bins_are_refused():
    verify_refused(ConfigError, ("bins", "at least 1", "got 0"), lambda: calibration(HALVES, torch.zeros(3).long(), 0))
