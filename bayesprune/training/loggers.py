"""What loggers of other projects get of a run: its settings, every epoch's figures, and how θ lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from bayesprune.errors import ConfigError
from bayesprune.training.history import EpochRow
from bayesprune.training.trainer import Trainer


@runtime_checkable
class Logger(Protocol):
    """What a logger can do, as those of Lightning and of Lightning Fabric can: for TensorBoard, MLflow, and others.

    Examples:
        >>> from lightning_fabric.loggers import CSVLogger
        >>> isinstance(CSVLogger("logs"), Logger)
        True
    """

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write down figures.

        Args:
            metrics: By name.
            step: Number of the epoch, from 1.
        """

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Write down how the run is made; may raise `NotImplementedError`."""

    def finalize(self, status: str) -> None:
        """Close what is open; ``status`` is ``"success"`` or ``"failed"``."""


class EpochLog:
    """Passes a run on to loggers; to be used as a context and called with every row.

    A logger whose ``experiment`` has ``add_histogram``, as that of TensorBoard, gets a histogram of θ for every gate
    name too, in which structures that were removed count with 0.

    Args:
        loggers: Those of `fit`.
        trainer: The run.

    Raises:
        ConfigError: for an object that is no `Logger`.
    """

    def __init__(self, loggers: Iterable[Logger], trainer: Trainer):
        if not isinstance(loggers, Iterable):
            raise ConfigError(f"fit: loggers must be a list of loggers, got {type(loggers).__name__}")
        self.loggers, self.trainer = tuple(loggers), trainer
        for logger in self.loggers:
            if not isinstance(logger, Logger):
                raise ConfigError(
                    f"fit: loggers holds {type(logger).__name__}, which lacks log_metrics, log_hyperparams or "
                    "finalize; loggers of lightning and of lightning_fabric have them"
                )

    def __enter__(self) -> EpochLog:
        with ExitStack() as begun:
            for logger in self.loggers:
                begun.callback(logger.finalize, "failed")
                with suppress(NotImplementedError):  # Fabric's CSVLogger writes figures alone
                    logger.log_hyperparams(hyperparameters(self.trainer))
            begun.pop_all()  # all have begun: they are finalised at the end
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as ending:  # each, whatever another raises
            for logger in self.loggers:
                ending.callback(logger.finalize, "success" if kind is None else "failed")

    def __call__(self, row: EpochRow) -> None:
        """Log one epoch."""
        thetas = {name: path[-1] for name, path in self.trainer.history.thetas.items()}
        for logger in self.loggers:
            logger.log_metrics(figures(row), row.epoch)
            _add_histograms(logger, thetas, row.epoch)


def figures(row: EpochRow) -> dict[str, float]:
    """The figures of a row by name, without those that there are none of.

    Args:
        row: The row.
    """
    found = {name: value for name, value in asdict(row).items() if isinstance(value, (int, float))}
    return {name: float(value) for name, value in found.items() if not math.isnan(value)}


def hyperparameters(trainer: Trainer) -> dict[str, Any]:
    """What a run is made of, as plain values by name.

    Args:
        trainer: The run.
    """
    settings = {f"settings/{name}": _plain(value) for name, value in vars(trainer.settings).items()}
    return {"method": trainer.method.name, "epochs": trainer.epochs, "num_data": trainer.net.num_data, **settings}


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _add_histograms(logger: Logger, thetas: Mapping[str, Tensor], step: int) -> None:
    """Give a logger histograms of θ, if it takes them."""
    add = getattr(getattr(logger, "experiment", None), "add_histogram", None)
    if add is not None:
        for name, theta in thetas.items():
            add(f"theta/{name}", theta, step)
