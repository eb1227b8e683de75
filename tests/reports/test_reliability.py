"""The picture is judged by its areas and places, as the other pictures are."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scipy.stats import binomtest

from bayesprune.metrics import Calibration, calibration
from bayesprune.reports import draw_reliability
from bayesprune.reports.picture import ON, UNDECIDED
from bayesprune.reports.reliability import wilson


def answers(confidence: float, right: int, examples: int) -> Calibration:
    """The calibration of so many examples of one confidence, so many of them classified right."""
    p = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64).expand(examples, 2)
    return calibration(p, (torch.arange(examples) >= right).long(), bins=10)


def rows_of(path: Path, color: str) -> np.ndarray:
    """How many pixels of exactly this colour every row of the picture has, without the legend below."""
    image = matplotlib.image.imread(path)[..., :3]
    near = (np.abs(image - np.array(to_rgb(color))).max(-1) < 1e-3).sum(1)
    return near[: int(0.95 * len(near))]


def error_height(path: Path) -> int:
    """Height of the calibration error that is drawn, in pixels."""
    return int((rows_of(path, UNDECIDED) > 0).sum())


def test_the_error_is_as_high_as_the_distance_between_confidence_and_accuracy(tmp_path: Path):
    heights = []
    for right in (550, 350, 150):
        draw_reliability(answers(0.75, right, 1000), tmp_path / f"{right}.png")
        heights.append(error_height(tmp_path / f"{right}.png"))
    # The point and its interval hide the end of each.
    assert [height - heights[0] for height in heights[1:]] == pytest.approx([heights[0] * k for k in (1, 2)], rel=0.15)
    assert heights[2] > 200


def test_a_calibrated_bin_shows_no_error(tmp_path: Path):
    draw_reliability(answers(0.75, 750, 1000), tmp_path / "reliability.png")
    assert error_height(tmp_path / "reliability.png") == 0


def test_too_sure_is_below_not_sure_enough_above_the_diagonal(tmp_path: Path):
    middles = []
    for right in (350, 950):
        draw_reliability(answers(0.65, right, 1000), tmp_path / "reliability.png")
        rows = np.flatnonzero(rows_of(tmp_path / "reliability.png", UNDECIDED))
        middles.append(rows.mean())
    below, above = middles
    height = matplotlib.image.imread(tmp_path / "reliability.png").shape[0]
    assert below - above == pytest.approx(0.3 * 0.62 * height, rel=0.15)  # the axes take 62 % of the picture


def test_the_bars_below_count_the_examples_of_each_bin(tmp_path: Path):
    # Logarithmic from ½: two bins of 500 examples have twice the area of one with 1000, but for log 2.
    one = answers(0.95, 950, 1000)
    p = torch.tensor([[0.95, 0.05], [0.65, 0.35]], dtype=torch.float64).repeat_interleave(500, 0)
    two = calibration(p, torch.zeros(1000, dtype=torch.int64), bins=10)
    areas = []
    for k, item in enumerate((one, two)):
        draw_reliability(item, tmp_path / f"{k}.png")
        rows = rows_of(tmp_path / f"{k}.png", ON)
        areas.append(rows[int(0.75 * len(rows)) :].sum())
    assert areas[1] / areas[0] == pytest.approx(2, rel=0.05)


def test_empty_bins_and_perfect_answers_can_be_drawn(tmp_path: Path):
    draw_reliability(calibration(torch.eye(2), torch.tensor([0, 1])), tmp_path / "reliability.png", title="sure")
    assert rows_of(tmp_path / "reliability.png", ON).sum() > 100
    assert error_height(tmp_path / "reliability.png") == 0


def test_the_picture_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "reliability.png"
    path.write_bytes(b"old")
    draw_reliability(answers(0.75, 7, 10), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (3, 10), (10, 10), (720, 1000)])
def test_the_interval_is_wilsons(right: int, count: int):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(count, right / count) == pytest.approx((expected.low, expected.high), abs=1e-4)
