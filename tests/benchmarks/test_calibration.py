"""Calibration: what is counted, and that the linear regressor's posterior is right on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2


def test_the_share_that_is_in_is_counted_by_bin(bench: Any) -> None:
    rows = [
        {"inclusion": [0.1, 0.9], "included": [False, True]},
        {"inclusion": [0.3, 1.0], "included": [True, True]},
    ]
    low, high = bench.calibration.reliability(rows, np.array([0, 0.5, 1]))
    assert low == pytest.approx((0.2, 0.5, (0.09 + 0.21) ** 0.5 / 2, 2))
    assert high == pytest.approx((0.95, 1.0, 0.09**0.5 / 2, 2))


def test_chance_is_told_from_what_is_wrong(bench: Any) -> None:
    """Inclusion of 0.7 of which 60 of 100 are in; ranks at the middles of 100 intervals, and all in the middle half."""
    even = (np.arange(100) + 0.5) / 100
    rows = [
        {"inclusion": [0.7], "included": [place < 60], "mean": rank, "target": 0.25 + rank / 2, "noise": rank**4}
        for place, rank in enumerate(even)
    ]
    values = bench.calibration.p_values(rows)
    assert values["inclusion"] == pytest.approx(chi2.sf(0.1**2 * 100 / 0.21, 1))
    assert values["mean"] > 0.999 and values["target"] < 1e-4 and values["noise"] < 1e-10


def test_truths_are_of_the_prior(bench: Any) -> None:
    """Of 2,000, half of the inputs in, coefficients of variance 1, half of the noise below its median; by 4 errors."""
    truths = [bench.calibration.draw(seed) for seed in range(2000)]
    included = np.array([truth.included.numpy() for truth in truths])
    weights = np.array([truth.weights.numpy() for truth in truths])
    assert not weights[~included].any()
    assert abs(included.mean() - 0.5) < 4 * 0.5 / included.size**0.5
    assert abs(weights[included].var() - 1) < 4 * (2 / included.sum()) ** 0.5
    assert abs(np.mean([truth.noise**-2 > chi2.median(5) / 5 for truth in truths]) - 0.5) < 4 * 0.5 / 2000**0.5
    first = truths[0]
    errors = (first.y[:, 0] - first.x @ first.weights - first.intercept).numpy() / first.noise
    assert abs(errors.std() - 1) < 4 / (2 * len(errors)) ** 0.5


def test_ranks_are_drawn(bench: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [
        {"inclusion": [rank], "included": [rank > 0.5], "mean": rank, "target": rank, "noise": rank}
        for rank in generator.random(30)
    ]
    bench.calibration.draw_picture(rows, tmp_path / "ranks.svg")
    drawn = (tmp_path / "ranks.svg").read_text()
    assert drawn.startswith("<?xml") and len(drawn) < 200_000
    assert "30 fits" in bench.calibration.show(rows)


@pytest.mark.slow
@pytest.mark.statistical
def test_inclusion_and_predictions_of_the_linear_regressor_are_calibrated(bench: Any) -> None:
    """40 fits; where all is right each of the three fails by chance at 1e-3. The noise is not: it is no posterior."""
    values = bench.calibration.p_values([bench.calibration.measure(seed) for seed in range(40)])
    assert min(values["inclusion"], values["mean"], values["target"]) > 1e-3, values
