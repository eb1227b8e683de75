"""Tables of the benchmark of whole runs."""

from __future__ import annotations

from statistics import mean, median

from breakdown import Breakdown
from cases import Setting
from report import table
from roles import Outcome

HEADER = ["network, data, epochs", "run", "accuracy %", "single runs", "parameters", "multiply-adds", "epochs"]
HEADER += ["seconds", "× dense", "× self-pruned", "ideal", "ideal over its own", "attainable"]

Found = dict[str, list[Outcome]]
"""By role, the outcomes of a case, seed by seed."""


def times(outcomes: list[Outcome], others: list[Outcome]) -> float:
    """Median over seeds of the processor time relative to that of the other run of the same seed."""
    other = {one.seed: one.seconds for one in others}
    return median(one.seconds / other[one.seed] for one in outcomes)


def runs_table(found: dict[str, tuple[Setting, Found]]) -> str:
    """One line a case and role: means of accuracy and size, medians of time and of paired ratios.

    *ideal* is Σ over steps of the multiply-adds then, relative to the dense run: the time of a run that paid for its
    multiplications alone. *ideal over its own* is how much of the run's own time that would be. *attainable* see there.
    """
    lines = []
    for setting, outcomes in found.values():
        for role, ones in outcomes.items():
            lines.append([_title(setting) if role == "dense" else "", f"**{role}**" if role == "self-pruned" else role])
            lines[-1] += _line(setting, ones, outcomes)
    return table(HEADER, lines)


def _line(setting: Setting, ones: list[Outcome], outcomes: Found) -> list[str]:
    """Figures of one role, beside those of all."""
    whole, ratio, work = setting.whole, times(ones, outcomes["dense"]), mean(one.work for one in ones)
    return [
        f"{100 * mean(one.accuracy for one in ones):.2f}",
        ", ".join(f"{100 * one.accuracy:.2f}" for one in ones),
        f"{100 * mean(one.params for one in ones) / whole.params:.1f} %",
        f"{100 * mean(one.macs for one in ones) / (whole.macs or 1):.1f} %",
        f"{median(one.epochs for one in ones):g}",
        f"{median(one.seconds for one in ones):.1f}",
        f"{ratio:.2f}",
        f"{times(ones, outcomes['self-pruned']):.2f}",
        f"{work:.2f}",
        f"{work / ratio:.2f}",
        f"{attainable(outcomes):.2f}" if ones is outcomes["self-pruned"] and "scratch" in outcomes else "",
    ]


def attainable(outcomes: Found) -> float:
    """What a plain loop would take over the sizes that the self-pruned run went through, relative to the dense run.

    Between the multiply-adds of the network that is left and those of the dense one, the time of a step is taken to be
    linear in them: a small step costs more than it multiplies.
    """
    left, work = (mean(one.work for one in outcomes[role]) for role in ("scratch", "self-pruned"))
    least = times(outcomes["scratch"], outcomes["dense"])
    return least + (1 - least) * (work - left) / (1 - left)


def short_table(found: dict[str, tuple[Setting, Found]]) -> str:
    """One line a case: mean accuracy of every role, with its time relative to the dense run."""
    roles = list(dict.fromkeys(role for _, outcomes in found.values() for role in outcomes))
    lines = []
    for setting, outcomes in found.values():
        size = mean(one.params for one in outcomes["self-pruned"]) / setting.whole.params
        cells = [_cell(outcomes[role], outcomes["dense"]) if role in outcomes else "–" for role in roles]
        lines.append([_title(setting), f"{100 * size:.1f} %", *cells])
    return table(["network, data, epochs", "parameters left", *roles], lines)


def _cell(ones: list[Outcome], dense: list[Outcome]) -> str:
    return f"{100 * mean(one.accuracy for one in ones):.2f} % in {times(ones, dense):.2f}"


def breakdown_table(found: dict[str, tuple[Setting, Breakdown]]) -> str:
    """One line a part, one column a case: shares of the self-pruned run's time."""
    parts = list(dict.fromkeys(part for _, one in found.values() for part in one.seconds))
    lines = [[part, *(f"{100 * one.share(part):.1f} %" for _, one in found.values())] for part in parts]
    lines.append(["**all, seconds**", *(f"{one.total:.1f}" for _, one in found.values())])
    lines.append(["of these the clocks", *(f"{100 * one.clocks / one.total:.1f} %" for _, one in found.values())])
    return table(["part", *(_title(setting) for setting, _ in found.values())], lines)


def phases_table(found: dict[str, tuple[Setting, Breakdown, Found]]) -> str:
    """One line a case and phase: how long its epochs take, in seconds and relative to those of the dense run."""
    lines = []
    for setting, one, outcomes in found.values():
        dense = next(run for run in outcomes["dense"] if run.seed == 0)
        for number, (phase, (epochs, seconds)) in enumerate(one.by_phase().items()):
            line = ["" if number else _title(setting), phase, str(epochs), f"{seconds:.2f}"]
            lines.append([*line, f"{seconds / (dense.seconds / dense.epochs):.2f}"])
    return table(["network, data, epochs", "phase", "epochs", "seconds an epoch", "× dense"], lines)


def _title(setting: Setting) -> str:
    return f"{setting.case.title}, {setting.case.epochs}"
