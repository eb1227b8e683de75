import math

import pytest
import torch

from bayesprune.reports import summarize, total

THETAS = {
    "a": torch.tensor([1.0, 0.995, 0.5, 0.0, 0.0]),
    "b": torch.tensor([0.005, 0.2]),
    "gone": torch.zeros(3),
}
SURVIVORS = {"a": torch.tensor([0, 1, 2, 4]), "b": torch.tensor([0, 1])}


def test_counts_and_sums_of_each_module():
    a, b, gone = summarize(THETAS, SURVIVORS)
    assert [s.name for s in (a, b, gone)] == ["a", "b", "gone"]
    assert [(s.start, s.left) for s in (a, b, gone)] == [(5, 2), (2, 0), (3, 0)]
    assert [s.expected for s in (a, b, gone)] == pytest.approx([2.495, 0.205, 0.0])
    assert [s.converged for s in (a, b, gone)] == pytest.approx([4 / 5, 1 / 2, 1.0])
    assert (a.low, a.high) == (0.0, 1.0)
    assert (b.low, b.high) == pytest.approx((0.005, 0.2))


def test_a_module_that_is_gone_has_no_lowest_and_highest_theta():
    gone = summarize(THETAS, SURVIVORS)[2]
    assert math.isnan(gone.low)
    assert math.isnan(gone.high)


def test_a_removed_gate_does_not_count_for_the_lowest_theta():
    (only,) = summarize({"a": torch.tensor([0.0, 0.4])}, {"a": torch.tensor([1])})
    assert only.low == pytest.approx(0.4)


def test_the_total_weighs_modules_by_their_gates():
    everything = total(summarize(THETAS, SURVIVORS))
    assert (everything.name, everything.start, everything.left) == ("all", 10, 2)
    assert everything.expected == pytest.approx(2.7)
    assert everything.converged == pytest.approx(8 / 10)
    assert (everything.low, everything.high) == (0.0, 1.0)


def test_the_total_of_nothing_left_is_nan():
    everything = total(summarize({"gone": torch.zeros(3)}, {}))
    assert everything.converged == 1.0
    assert math.isnan(everything.low)


@pytest.mark.parametrize(("theta", "converged"), [(0.01, 1.0), (0.0101, 0.0), (0.9899, 0.0), (0.991, 1.0)])
def test_converged_means_within_a_hundredth(theta: float, converged: float):
    (only,) = summarize({"a": torch.tensor([theta], dtype=torch.float64)}, {"a": torch.tensor([0])})
    assert only.converged == converged
