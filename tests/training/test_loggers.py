"""Loggers of other projects get the settings, every row and θ, whether a run ends well or not."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

import bayesprune as bp
from bayesprune.errors import ConfigError
from bayesprune.training import EpochRow
from bayesprune.training.loggers import figures
from tests.training.problems import Batches, bayesian, examples, units


class Recorded:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.metrics: list[tuple[dict[str, float], int | None]] = []
        self.params: dict[str, Any] = {}
        self.status: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((metrics, step))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.params = params

    def finalize(self, status: str) -> None:
        self.status.append(status)


def test_a_logger_gets_settings_and_every_row() -> None:
    x, y = examples()
    logger, bnn = Recorded(), bayesian(units())
    settings = bp.recommended(bnn).settings(lr=0.01)
    history = bp.fit(bnn, Batches(x, y), epochs=2, settings=settings, loggers=[logger])
    assert logger.metrics == [(figures(row), row.epoch) for row in history.rows]
    assert logger.params["settings/lr"] == 0.01 and logger.params["epochs"] == 2 and logger.params["method"] == "svi"
    assert logger.status == ["success"]


def test_figures_leave_out_words_and_what_there_is_none_of() -> None:
    row = EpochRow(3, "settle", 0.5, 0.4, math.nan, math.nan, 7, 1.0, 100, 200, 1.5, masked=2)
    assert figures(row) == {
        "epoch": 3, "loss": 0.5, "nll": 0.4, "gates_left": 7, "gates_converged": 1, "params": 100, "macs": 200,
        "seconds": 1.5, "masked": 2,
    }  # fmt: skip


def test_a_logger_learns_of_a_run_that_breaks_off() -> None:
    logger = Recorded()

    def stop(row: EpochRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bp.fit(bayesian(units()), Batches(*examples()), epochs=2, loggers=[logger], on_epoch=stop)
    assert logger.status == ["failed"] and len(logger.metrics) == 1


def test_loggers_that_have_begun_are_told_if_another_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Recorded(), Recorded()

    def full(params: dict[str, Any]) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(second, "log_hyperparams", full)
    with pytest.raises(OSError, match="no space left"):
        bp.fit(bayesian(units()), Batches(*examples()), epochs=1, loggers=[first, second])
    assert first.status == second.status == ["failed"]


def test_a_run_that_goes_on_logs_what_is_new(tmp_path: Path) -> None:
    def stop(row: EpochRow) -> None:
        if row.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bp.fit(bayesian(units()), Batches(*examples()), epochs=3, out=tmp_path, on_epoch=stop)
    logger = Recorded()
    bp.fit(bayesian(units()), Batches(*examples()), epochs=3, out=tmp_path, loggers=[logger])
    assert [step for _, step in logger.metrics] == [3]


@pytest.mark.parametrize("loggers", ["events", [object()], 3])
def test_what_is_no_logger_is_refused(loggers: Any) -> None:
    with pytest.raises(ConfigError, match=r"^fit: loggers"):
        bp.fit(bayesian(units()), Batches(*examples()), epochs=1, loggers=loggers)


def test_fabrics_csv_logger(tmp_path: Path) -> None:
    history = bp.fit(
        bayesian(units()), Batches(*examples()), epochs=2, loggers=[CSVLogger(tmp_path, name="", version="")]
    )
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), float(row["loss"])) for row in rows] == [(row.epoch, row.loss) for row in history.rows]


def test_tensorboard_gets_figures_and_histograms_of_theta(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = bp.fit(
        bayesian(units()), Batches(*examples()), epochs=2, loggers=[TensorBoardLogger(tmp_path, name="", version="")]
    )
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    events.Reload()
    assert [event.value for event in events.Scalars("nll")] == pytest.approx([row.nll for row in history.rows])
    for name, path in history.thetas.items():
        found = events.Histograms(f"theta/{name}")
        assert [event.step for event in found] == [1, 2]
        for event, theta in zip(found, path[1:], strict=True):
            value = event.histogram_value
            assert value.num == len(theta) and value.sum == pytest.approx(float(theta.double().sum()))
