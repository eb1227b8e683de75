"""The command that compares methods of pruning."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bayesprune.cli.encoding import write
from bayesprune.cli.folder import check_new
from bayesprune.cli.own import OwnNetwork, is_own
from bayesprune.comparison import ComparisonResult, Plan, Row, compare
from bayesprune.comparison.compare import PAGE
from bayesprune.comparison.estimate import estimate
from bayesprune.comparison.material import Material
from bayesprune.comparison.refusals import refusals
from bayesprune.comparison.result import ending
from bayesprune.comparison.runs import TEST, all_runs
from bayesprune.comparison.tables import FULL, QUICK, packaged
from bayesprune.errors import ConfigError, DataError

MINUTE, HOUR = 60, 3600


def planned(settings: str | None, quick: bool, methods: str | None, tasks: str | None) -> Plan:
    """What is to be compared.

    Args:
        settings: A TOML file; ``None`` for one of the package's.
        quick: Whether that is the quick one.
        methods: Names, with commas between them; ``None`` for all that the settings have.
        tasks: Likewise.

    Raises:
        ConfigError: for settings that cannot work, and for a file beside ``--quick``.
    """
    if settings is not None and quick:
        raise ConfigError(f"--quick is a settings file of its own; leave out --quick or {settings}")
    return Plan.read(settings or (QUICK if quick else FULL)).only(methods=_names(methods), tasks=_names(tasks))


def _names(text: str | None) -> list[str] | None:
    """``a,b,c`` as names."""
    return None if text is None else [name.strip() for name in text.split(",")]


def say_estimate(plan: Plan, data_dir: str, as_json: bool = False) -> None:
    """Write how many runs there are, about what they take, and which methods refuse to begin, with their reasons.

    Args:
        plan: What is compared.
        data_dir: Folder of torchvision's data sets.
        as_json: Whether as one line of JSON.
    """
    material, runs = Material(data_dir, _own(plan)), all_runs(plan)
    test = sum(run.stage == TEST for run in runs)
    if as_json:
        write(json.dumps(_estimated(plan, material, len(runs) - test, test)))
        return
    write(f"runs on held-out training data: {len(runs) - test}; runs that are compared: {test}")
    write("tasks: " + "; ".join(f"{task.net} on {task.data}, {task.epochs} epochs" for task in plan.tasks))
    try:
        found = estimate(plan, material)
    except DataError as error:
        write(
            f"what they take is known only with the data: {error}. To compare without these, copy {packaged(QUICK)}, "
            "take the task out of it, and give the path of the copy"
        )
        return
    write(f"about {found.macs:.2g} multiply-adds, {_long(found.seconds)} of one processor")
    for task, method, why in refusals(plan, material):
        write(f"refused: {task}, {method}: {why}")


def check_alone(settings: str | None, **options: object) -> None:
    """Refuse what ``--so-far`` would not look at.

    Args:
        settings: A settings file.
        **options: By name, options of what is compared and how, as they were given.

    Raises:
        ConfigError: if any is given.
    """
    named = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    given = named if settings is None else [settings, *named]
    if given:
        raise ConfigError(
            f"--so-far prints all that is done in --out, whatever the settings; leave out {' and '.join(given)}"
        )


def say_so_far(out: Path, as_json: bool = False) -> None:
    """Write the table of what is done of a comparison, which may go on meanwhile.

    Args:
        out: Its folder.
        as_json: Whether as one line of JSON.
    """
    result = ComparisonResult.read(out)
    if result.rows or as_json:
        _show(result, as_json)
    else:
        write("no run that is compared is done yet; trials come first")


def _show(result: ComparisonResult, as_json: bool) -> None:
    """Write the table, and which runs came to nothing.

    Args:
        result: What the comparison came to, so far or at the end.
        as_json: Whether as one line of JSON, and the runs to standard error.
    """
    write(json.dumps(result.record) if as_json else result.table())
    if said := ending(result.rows):
        write(f"\nruns that came to nothing:\n{said}", aside=as_json)


def _estimated(plan: Plan, material: Material, trials: int, test: int) -> dict[str, Any]:
    """What ``--dry-run --json`` prints; ``macs`` and ``seconds`` are null where data are missing, as ``missing`` says.

    Args:
        plan: What is compared.
        material: Where networks and data come from.
        trials: Number of runs on held-out training data.
        test: Number of runs that are compared.
    """
    tasks = [{"net": task.net, "data": task.data, "epochs": task.epochs} for task in plan.tasks]
    record = {"held_out_runs": trials, "compared_runs": test, "tasks": tasks}
    try:
        found = estimate(plan, material)
    except DataError as error:
        return {**record, "macs": None, "seconds": None, "missing": str(error), "refused": []}
    refused = [dict(zip(("task", "method", "reason"), each, strict=True)) for each in refusals(plan, material)]
    return {**record, "macs": found.macs, "seconds": found.seconds, "refused": refused}


def _own(plan: Plan) -> dict[str, OwnNetwork]:
    """The networks of one's own that a plan names."""
    return {task.net: OwnNetwork(task.net) for task in plan.tasks if is_own(task.net)}


def _long(seconds: float) -> str:
    """A time in the unit that suits it."""
    for name, unit in (("hours", HOUR), ("minutes", MINUTE)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds:.2g} seconds"


def compare_and_show(
    plan: Plan, out: Path, workers: int, data_dir: str, resume: bool, console: Console, as_json: bool = False
) -> None:
    """Compare, and show every run as it ends, and the table.

    Args:
        plan: What is compared.
        out: Folder of all files.
        workers: How many processes train at a time.
        data_dir: Folder of torchvision's data sets.
        resume: Whether the folder may hold a part of the comparison.
        console: Where to show a bar, if that is a terminal.
        as_json: Whether the table is one line of JSON, and all else goes to standard error.

    Raises:
        BayesPruneError: as `compare`, and for a folder that is not empty.
    """
    if not resume:
        check_new(out, "the same command and --resume")
    with ExitStack() as held:
        show = held.enter_context(_Bars(console)) if console.is_terminal else partial(_say, aside=as_json)
        result = compare(plan, out=out, workers=workers, data_dir=data_dir, networks=_own(plan), on_row=show)
    _show(result, as_json)
    write(f"\nresults: {out / PAGE}", aside=as_json)


class _Bars:
    """A bar for each stage.

    Args:
        console: Where.
    """

    def __init__(self, console: Console):
        columns = TextColumn("{task.fields[stage]:7}"), MofNCompleteColumn(), BarColumn(24), TimeRemainingColumn()
        self.bars = Progress(*columns, TextColumn("{task.description}"), console=console)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, row: Row, done: int, count: int) -> None:
        if row.stage not in self.tasks:
            self.tasks[row.stage] = self.bars.add_task("", total=count, stage=row.stage)
        self.bars.update(self.tasks[row.stage], completed=done, description=_said(row))


def _say(row: Row, done: int, count: int, *, aside: bool) -> None:
    """A line for a row."""
    write(f"{row.stage} {done:{len(str(count))}d}/{count}  {_said(row)}", aside=aside)


def _said(row: Row) -> str:
    goal = "" if row.measure == "free" else f" {row.measure}={row.share:g}"
    end = row.error or f"accuracy {100 * row.accuracy:.2f} %"
    return f"{row.task} {row.method}{goal} x{row.compute:g} seed {row.seed}: {end}, {row.cpu_seconds:.1f} s"
