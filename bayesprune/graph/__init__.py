"""The traced network: what its gates silence, what may be removed, and which gates cannot mean removal."""

from bayesprune.graph.additions import check_additions
from bayesprune.graph.analysis import Analysis
from bayesprune.graph.check import check_gates
from bayesprune.graph.depth import gates_in_a_row
from bayesprune.graph.presence import Presence
from bayesprune.graph.tracer import block_graph
from bayesprune.graph.tracing import Traced, trace
from bayesprune.layers import gates_of

__all__ = [
    "Analysis",
    "Presence",
    "Traced",
    "block_graph",
    "check_additions",
    "check_gates",
    "gates_in_a_row",
    "gates_of",
    "trace",
]
