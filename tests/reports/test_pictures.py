"""Pictures are judged by their areas: the share of pixels of a colour is the share of gates that it stands for."""

import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from bayesprune.reports import draw_gates, draw_probabilities
from bayesprune.reports.picture import OFF, ON, UNDECIDED, grid, label

EPOCHS = 8


def pixels(path: Path, color: str) -> int:
    """How many pixels of the picture have exactly this colour."""
    image = matplotlib.image.imread(path)[..., :3]
    return int((np.abs(image - np.array(to_rgb(color))).max(-1) < 1e-3).sum())


def verify_shares(path: Path, expected: dict[str, float], tolerance: float = 0.02) -> None:
    """The colours share the area that they have together as ``expected``."""
    counts = {color: pixels(path, color) for color in expected}
    area = sum(counts.values())
    assert area > 5000
    assert {color: count / area for color, count in counts.items()} == pytest.approx(expected, abs=tolerance)


def constant(theta: torch.Tensor) -> list[torch.Tensor]:
    return [theta] * (EPOCHS + 1)


def test_gates_over_training_are_stacked_by_their_share(tmp_path: Path):
    theta = torch.tensor([1.0] * 30 + [0.1] * 20 + [0.0] * 50)
    draw_gates({"2": constant(theta)}, tmp_path / "gates.png")
    verify_shares(tmp_path / "gates.png", {ON: 0.3, UNDECIDED: 0.2, OFF: 0.5}, tolerance=0.03)


def test_the_areas_follow_the_epochs(tmp_path: Path):
    path = [torch.tensor([float(k >= 10 * t) for k in range(100)]) for t in range(11)]
    draw_gates({"fc": path}, tmp_path / "gates.png")
    verify_shares(tmp_path / "gates.png", {ON: 0.5, OFF: 0.5}, tolerance=0.03)


def test_single_gates_share_one_panel(tmp_path: Path):
    branches = {f"branch{k}": constant(torch.tensor([float(k < 3)])) for k in range(4)}
    draw_gates(branches, tmp_path / "gates.png")
    # The colour bar shows all colours, each in a sliver.
    verify_shares(tmp_path / "gates.png", {ON: 0.75, OFF: 0.25}, tolerance=0.03)


def test_layers_and_branches_stand_in_one_picture(tmp_path: Path):
    one, both = tmp_path / "one.png", tmp_path / "both.png"
    layer = constant(torch.tensor([1.0, 0.0] * 8))
    draw_gates({"a": layer}, one)
    draw_gates({"a": layer, "b": constant(torch.ones(1))}, both, title="both")
    assert pixels(one, ON) == pytest.approx(pixels(one, OFF), rel=0.05)
    assert pixels(both, ON) > 1.2 * pixels(both, OFF)


def test_a_picture_at_the_start_of_a_run_can_be_drawn(tmp_path: Path):
    draw_gates({"a": [torch.full((4,), 0.9)], "b": [torch.ones(1)]}, tmp_path / "gates.png")
    assert pixels(tmp_path / "gates.png", ON) > 100


@pytest.mark.parametrize(("panels", "expected"), [(0, (1, 0)), (1, (1, 1)), (3, (3, 1)), (12, (4, 3)), (60, (6, 10))])
def test_the_grid_holds_all_panels(panels: int, expected: tuple[int, int]):
    assert grid(panels) == expected


@pytest.mark.parametrize("modules", [3, 60])
def test_rows_stay_readable_however_many_modules(tmp_path: Path, modules: int):
    path = tmp_path / "inspect.png"
    draw_probabilities({f"layer{k}": torch.linspace(0, 1, 16) for k in range(modules)}, path)
    height = matplotlib.image.imread(path).shape[0]
    assert height / modules >= 28
    assert height < 4000


def test_probabilities_fill_their_share_of_the_rows(tmp_path: Path):
    thetas = {"a": torch.tensor([0.0, 1.0, 0.0, 1.0]), "b": torch.full((10,), 0.25)}
    draw_probabilities(thetas, tmp_path / "inspect.png")
    verify_shares(tmp_path / "inspect.png", {ON: 0.375, OFF: 0.625})


def test_gates_of_inputs_are_shown_as_an_image(tmp_path: Path):
    theta = torch.zeros(2, 6, 6)
    theta[:, :3] = 1.0
    thetas = {"0": theta.flatten()}
    draw_probabilities(thetas, tmp_path / "rows.png")
    draw_probabilities(thetas, tmp_path / "image.png", inputs=("0", (2, 6, 6)))
    verify_shares(tmp_path / "image.png", {ON: 0.5, OFF: 0.5})
    assert pixels(tmp_path / "image.png", ON) > 1.5 * pixels(tmp_path / "rows.png", ON)


def test_no_state_is_left_in_pyplot(tmp_path: Path):
    draw_gates({"a": constant(torch.ones(2))}, tmp_path / "gates.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_picture_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "gates.png"
    path.write_bytes(b"old")
    draw_gates({"a": constant(torch.ones(2))}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_modules_with_bare_numbers_are_called_modules():
    assert [label("3"), label("layer1.0.conv1"), label("")] == ["module 3", "layer1.0.conv1", ""]
