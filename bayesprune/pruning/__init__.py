"""Surgery: when structures may go, how a network becomes smaller, what it costs, and the files it is kept in."""

from bayesprune.pruning.compaction import compact
from bayesprune.pruning.costs import cost
from bayesprune.pruning.expected import MEASURES, ExpectedCost
from bayesprune.pruning.export import export_onnx, export_torch
from bayesprune.pruning.meter import compare_latencies, measure_latency
from bayesprune.pruning.modelfile import load, read_run, save, unsavable
from bayesprune.pruning.price import CostPrice, marginal_cost, prices, relative_cost
from bayesprune.pruning.removal import RemovalMonitor, gates_left
from bayesprune.pruning.shrinking import kept_gates, shrink

__all__ = [
    "MEASURES",
    "CostPrice",
    "ExpectedCost",
    "RemovalMonitor",
    "compact",
    "compare_latencies",
    "cost",
    "export_onnx",
    "export_torch",
    "gates_left",
    "kept_gates",
    "load",
    "marginal_cost",
    "measure_latency",
    "prices",
    "read_run",
    "relative_cost",
    "save",
    "shrink",
    "unsavable",
]
