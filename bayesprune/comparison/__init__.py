"""Comparisons of methods of pruning: settings, tuning on held-out data, runs, and what came of them."""

from bayesprune.comparison.compare import compare
from bayesprune.comparison.plan import Plan, Task, Tuning
from bayesprune.comparison.result import ComparisonResult
from bayesprune.comparison.rows import Row

__all__ = ["ComparisonResult", "Plan", "Row", "Task", "Tuning", "compare"]
