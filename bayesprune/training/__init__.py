"""Training: the loop, its schedule, budgets, engine, checkpoints and records."""

from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.recipes import Recipe, recommended
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.engine import Engine
from bayesprune.training.history import EpochRow, History
from bayesprune.training.loop import fit
from bayesprune.training.metrics import Score, evaluate

__all__ = [
    "Budget",
    "Engine",
    "EpochRow",
    "History",
    "Recipe",
    "Schedule",
    "Score",
    "Settings",
    "evaluate",
    "fit",
    "recommended",
]
