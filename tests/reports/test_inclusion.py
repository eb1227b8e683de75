"""The picture of inclusion probabilities, judged by its areas and by what stands where."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from bayesprune.errors import ConfigError
from bayesprune.reports import draw_inclusion, inclusion
from bayesprune.reports.inclusion import UNLIKELY
from bayesprune.reports.picture import OFF, ON, UNDECIDED
from tests.reports.test_pictures import pixels, verify_shares


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that draws and gives the figure instead of writing it."""
    figures: list[Figure] = []
    monkeypatch.setattr(inclusion, "save", lambda figure, path: figures.append(figure))

    def draw(*arguments: Any, **options: Any) -> Figure:
        draw_inclusion(*arguments, "unused.png", **options)
        return figures.pop()

    return draw


def labels(figure: Figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_are_as_long_as_probable(tmp_path: Path) -> None:
    draw_inclusion(torch.tensor([1.0, 0.8, 0.4, 0.2]), tmp_path / "bars.png")
    verify_shares(tmp_path / "bars.png", {ON: 0.45, UNLIKELY: 0.15, OFF: 0.4})


def test_colours_tell_the_truth_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "truth.png"
    draw_inclusion(torch.tensor([0.9, 0.3, 0.8, 0.4]), path, truth=torch.tensor([True, True, False, False]))
    verify_shares(path, {ON: 0.3, UNDECIDED: 0.3, OFF: 0.4}, tolerance=0.03)  # and a legend
    assert pixels(path, UNLIKELY) == 0


def test_the_most_probable_stand_first_under_their_names(drawn: Any) -> None:
    figure = drawn(torch.tensor([0.25, 1.0, 0.625]), names=["age", "income", "height"], title="who buys")
    assert labels(figure) == ["income", "height", "age"]
    assert texts(figure) == ["1.00", "0.62", "0.25"]
    assert [text.get_text() for text in figure.texts] == ["who buys"]
    assert labels(drawn(torch.tensor([0.0, 0.5, 0.25, 0.5]))) == ["x1", "x3", "x2", "x0"]


def test_whiskers_are_standard_errors_and_end_at_the_border(drawn: Any) -> None:
    figure = drawn(torch.tensor([0.05, 0.95, 0.5]), errors=torch.tensor([0.1, 0.2, 0.25]))
    (whiskers,) = figure.axes[0].collections
    ends = [(row, start, end) for (start, row), (end, _) in whiskers.get_segments()]
    assert ends == [(0, pytest.approx(0.75), 1), (1, 0.25, 0.75), (2, 0, pytest.approx(0.15))]


@pytest.mark.parametrize(("count", "likely", "bars"), [(40, 0, 40), (41, 0, 20), (1000, 25, 25), (1000, 60, 40)])
def test_of_many_inputs_the_likely_ones_have_bars(drawn: Any, count: int, likely: int, bars: int) -> None:
    probabilities = torch.full((count,), 0.021)
    probabilities[3 : 3 + likely] = 0.97
    figure = drawn(probabilities)
    assert len(labels(figure)) == bars
    assert labels(figure)[:likely] == [f"x{k}" for k in range(3, 3 + min(likely, bars))]
    most = "0.97" if likely > bars else "0.03"  # rounded up: at most
    rest = [f"and {count - bars:,} more, at most {most}"] if count > bars else []
    assert texts(figure)[bars:] == rest
    assert len(figure.axes) == 1 + (count > 40)


def test_stems_stand_in_the_order_of_the_columns(drawn: Any) -> None:
    probabilities = torch.linspace(0.0, 0.4, 200)
    probabilities[[17, 150]] = torch.tensor([0.9, 0.6])
    truth = torch.zeros(200, dtype=torch.bool)
    truth[[17, 60]] = True  # x60 is missed, x150 a false discovery
    figure = drawn(probabilities, truth=truth)
    others, true, heads = figure.axes[1].collections
    found = {int(x): y for part in (others, true) for (x, low), (_, y) in part.get_segments() if low == 0}
    assert [found[k] for k in range(200)] == pytest.approx(probabilities.tolist())
    assert [segment[0][0] for segment in true.get_segments()] == [17, 60]
    assert heads.get_offsets().tolist() == [[17, *[pytest.approx(0.9)]], [60, found[60]], [150, pytest.approx(0.6)]]
    blue, orange = heads.get_facecolors()[[0, 2]].tolist()
    assert heads.get_facecolors().tolist() == [blue, blue, orange] and blue != orange


def test_the_border_of_the_median_model_is_drawn(drawn: Any) -> None:
    bars, stems = drawn(torch.full((50,), 0.1)).axes
    assert list(bars.lines[0].get_xdata()) == [0.5, 0.5]
    assert list(stems.lines[0].get_ydata()) == [0.5, 0.5]


def test_a_refused_picture_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "old.png"
    path.write_bytes(b"old")
    cases: list[tuple[torch.Tensor, dict[str, Any], str]] = [
        (torch.tensor([]), {}, r"d > 0, got shape \(0,\)"),
        (torch.ones(2, 2), {}, r"got shape \(2, 2\); flatten"),
        (torch.tensor([0.2, 1.2]), {}, r"probabilities in \[0, 1\]"),
        (torch.tensor([0.2, math.nan]), {}, "NaN"),
        (torch.ones(2), {"names": ["a"]}, "one of names for each of 2 inputs, got 1"),
        (torch.ones(2), {"truth": torch.ones(3)}, "one of truth .* got 3"),
        (torch.ones(2), {"errors": torch.ones(1)}, "one of errors .* got 1"),
    ]
    for probabilities, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            draw_inclusion(probabilities, path, **options)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
