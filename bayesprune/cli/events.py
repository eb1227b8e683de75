"""Events for TensorBoard, in the folder of a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bayesprune.errors import ConfigError
from bayesprune.training.loggers import Logger

EVENTS = "tensorboard"
"""The folder of events, in that of the run."""


def check_tensorboard() -> None:
    """Refuse to write events where the package for it is missing.

    Raises:
        ConfigError: if it is.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs tensorboard, which is not installed: pip install 'bayesprune[tensorboard]'"
        )


def events_in(folder: Path) -> Logger:
    """A logger that writes events to a run's folder; nothing is written before the first epoch ends.

    Args:
        folder: The folder of the run.
    """
    from lightning_fabric.loggers import TensorBoardLogger  # slow to import

    return TensorBoardLogger(folder, name="", version=EVENTS)
