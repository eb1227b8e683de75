"""Training: the loop, its schedule, budgets, engine, checkpoints and records."""

from bayesprune.training.budget import Budget
from bayesprune.training.engine import Engine
from bayesprune.training.history import EpochRow, History
from bayesprune.training.loop import fit
from bayesprune.training.metrics import Score, evaluate
from bayesprune.training.schedule import Schedule
from bayesprune.training.settings import Settings

__all__ = ["Budget", "Engine", "EpochRow", "History", "Schedule", "Score", "Settings", "evaluate", "fit"]
