"""Training: the loop, its schedule, budgets, engine, checkpoints and records."""

from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.recipes import Recipe, recommended
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.engine import Engine
from bayesprune.training.evidence import EvidenceBound, evidence_bound
from bayesprune.training.history import EpochRow, History
from bayesprune.training.loop import fit
from bayesprune.training.metrics import Score, evaluate
from bayesprune.training.restarts import BestFit, fit_best

__all__ = [
    "BestFit",
    "Budget",
    "Engine",
    "EpochRow",
    "EvidenceBound",
    "History",
    "Recipe",
    "Schedule",
    "Score",
    "Settings",
    "evaluate",
    "evidence_bound",
    "fit",
    "fit_best",
    "recommended",
]
