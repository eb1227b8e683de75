"""Training: the loop, its schedule, checkpoints and records."""

from bayesprune.training.history import EpochRow, History
from bayesprune.training.loop import fit
from bayesprune.training.metrics import Score, evaluate
from bayesprune.training.schedule import Schedule
from bayesprune.training.settings import Settings

__all__ = ["EpochRow", "History", "Schedule", "Score", "Settings", "evaluate", "fit"]
