"""The picture of interactions: which cells are how dark, and what stands where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bayesprune.errors import ConfigError
from bayesprune.reports import draw_interactions, interactions
from bayesprune.reports.picture import OFF, ON
from tests.reports.test_pictures import pixels

SHARES = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.25]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that draws and gives the figure instead of writing it."""
    figures: list[Figure] = []
    monkeypatch.setattr(interactions, "save", lambda figure, path: figures.append(figure))

    def draw(*arguments: Any, **options: Any) -> Figure:
        draw_interactions(*arguments, "unused.png", **options)
        return figures.pop()

    return draw


def colours(figure: Figure) -> np.ndarray:
    """Of the cells, shape ``(k, k, 3)``."""
    mesh = figure.axes[0].collections[0]
    return mesh.to_rgba(mesh.get_array())[..., :3]


def test_cells_are_as_dark_as_pairs_are_strong(drawn: Any) -> None:
    figure = drawn(SHARES, names=["age", "income", "height"], title="who buys")
    cells, light, dark = colours(figure), np.array(to_rgb(OFF)), np.array(to_rgb(ON))
    np.testing.assert_allclose(cells[1, 0], dark, atol=0.01)
    np.testing.assert_allclose(cells[2, 1], (light + dark) / 2, atol=0.01)
    np.testing.assert_allclose(cells[2, 0], light, atol=0.01)
    assert [text.get_text() for text in figure.axes[0].texts] == ["20.0", "0.0", "10.0"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["50.0", "30.0", "25.0"]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0.5, pytest.approx(0.3), 0.25]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["age", "income", "height"]
    assert [text.get_text() for text in figure.texts] == ["who buys"]


def test_the_file_is_written_and_holds_the_strongest_pair(tmp_path: Path) -> None:
    draw_interactions(SHARES, tmp_path / "pairs.png")
    assert pixels(tmp_path / "pairs.png", ON) > 1000


def test_where_nothing_acts_together_no_cell_is_dark(drawn: Any) -> None:
    figure = drawn(torch.eye(3))
    for row, column in ((1, 0), (2, 0), (2, 1)):
        np.testing.assert_allclose(colours(figure)[row, column], to_rgb(OFF), atol=0.01)


def test_of_many_inputs_those_with_the_largest_shares_are_drawn(drawn: Any) -> None:
    figure = drawn(torch.arange(30.0).flip(0).diag())
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [f"x{k}" for k in range(20)]
    assert not figure.axes[0].texts  # too many cells for numbers; a bar of colours stands for them
    assert [text.get_text() for text in figure.texts] == ["the 20 of 30 inputs with the largest shares"]


@pytest.mark.parametrize(
    ("shares", "options", "says"),
    [
        (torch.ones(3), {}, r"shape \(k, k\) with k at least 2, got shape \(3,\)"),
        (torch.ones(1, 1), {}, r"got shape \(1, 1\)"),
        (torch.ones(2, 3), {}, r"got shape \(2, 3\)"),
        (SHARES.tril(), {}, r"the same for \(j, k\) as for \(k, j\)"),
        (-SHARES, {}, "not negative"),
        (SHARES / 0, {}, "finite"),
        (SHARES, {"names": ["a", "b"]}, "a name for each of 3 inputs, got 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(shares: torch.Tensor, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        draw_interactions(shares, "never.png", **options)
