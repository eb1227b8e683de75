"""What a method of pruning and the training loop say to each other: hooks, a view of the run, and small records."""

from bayesprune.methods.protocol.method import Method
from bayesprune.methods.protocol.records import Batch, Decision, Kind, Model, Needs, Phase, Site, Value
from bayesprune.methods.protocol.run import Engine, Run

__all__ = ["Batch", "Decision", "Engine", "Kind", "Method", "Model", "Needs", "Phase", "Run", "Site", "Value"]
