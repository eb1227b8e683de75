"""What a method of pruning and the training loop say to each other: hooks, a view of the run, and small records."""

from bayesprune.methods.protocol.method import Method
from bayesprune.methods.protocol.records import Batch, Decision, Kind, Model, Needs, Phase, Site, Value
from bayesprune.methods.protocol.run import Engine, Run
from bayesprune.methods.protocol.stats import ActGrad, InOut, Statistic, Stats

__all__ = [
    "ActGrad",
    "Batch",
    "Decision",
    "Engine",
    "InOut",
    "Kind",
    "Method",
    "Model",
    "Needs",
    "Phase",
    "Run",
    "Site",
    "Statistic",
    "Stats",
    "Value",
]
