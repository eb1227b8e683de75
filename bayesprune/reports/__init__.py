"""Pictures, tables and pages from plain records."""

from bayesprune.reports.inclusion import draw_inclusion
from bayesprune.reports.interactions import draw_interactions
from bayesprune.reports.picture import draw_gates
from bayesprune.reports.probabilities import draw_probabilities
from bayesprune.reports.reliability import draw_reliability
from bayesprune.reports.run import RunReport, write_report
from bayesprune.reports.summary import GateSummary, summarize, total
from bayesprune.reports.tables import gate_table, result_table, score_table

__all__ = [
    "GateSummary",
    "RunReport",
    "draw_gates",
    "draw_inclusion",
    "draw_interactions",
    "draw_probabilities",
    "draw_reliability",
    "gate_table",
    "result_table",
    "score_table",
    "summarize",
    "total",
    "write_report",
]
