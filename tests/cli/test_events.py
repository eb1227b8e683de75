"""Events for TensorBoard go into the folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayesprune.cli import events
from tests.cli.verify import TINY, table, verify_done, verify_refused


def test_events_for_tensorboard_go_into_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    verify_done("train", *TINY, "--out", tmp_path / "run", "--tensorboard")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    logged = [event.value for event in found.Scalars("loss")]
    assert logged == pytest.approx([float(row["loss"]) for row in table(tmp_path / "run" / "history.csv")], rel=1e-6)


def test_events_are_refused_before_anything_is_written_where_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    says = ("pip install 'bayesprune[tensorboard]'",)
    verify_refused("train", *TINY, "--out", tmp_path / "run", "--tensorboard", says=says)
    assert not (tmp_path / "run").exists()
