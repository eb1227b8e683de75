"""The commands and their options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bayesprune.cli.comparing import check_alone, compare_and_show, planned, say_estimate, say_so_far
from bayesprune.cli.config import RunConfig, resolve
from bayesprune.cli.encoding import write
from bayesprune.cli.errors import Commands, first, interrupted
from bayesprune.cli.events import check_tensorboard, events_in
from bayesprune.cli.finished import draw_inspected, draw_score, inspect_gates, score
from bayesprune.cli.finished import export as export_network
from bayesprune.cli.folder import CHECKPOINT, RESULT, check_new, free_folder, new_folder
from bayesprune.cli.gated import said_of_gates
from bayesprune.cli.options import takes_options_of
from bayesprune.cli.own import is_own
from bayesprune.cli.progress import Display
from bayesprune.cli.record import check_run, read_config, read_json, resumed, write_config
from bayesprune.cli.reporting import PAGE, read_runs, record_of
from bayesprune.cli.run import Run, perform, prepare
from bayesprune.cli.version import version_line
from bayesprune.conversion import structures
from bayesprune.conversion.zoos import is_foreign
from bayesprune.errors import ConfigError, FileError
from bayesprune.reports import gate_table, result_table, score_table, write_report
from bayesprune.schema import optional, record, text
from bayesprune.training.lock import only_process

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of a table.")]
RunCode = Annotated[
    bool, typer.Option("--run-code", help="Run the code of a network of one's own, where this takes it.")
]
Folder = Annotated[Path, typer.Argument(help="Folder of a run, as 'bayesprune train' left it.", show_default=False)]


def _print_version(wanted: bool) -> None:
    if wanted:
        write(version_line())
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    r"""Train Bayesian neural networks that prune themselves.

    \b
    bayesprune train                              LeNet-300-100 on scikit-learn's digits, in seconds
    bayesprune train my_module:make_net           a network of your own
    bayesprune train resnet56 --data cifar10 --budget macs=0.4
    bayesprune report runs/lenet300-digits-seed0  what was removed and why, on one page

    'bayesprune COMMAND --help' lists the options of a command.
    """


@app.command(short_help="Train a network that prunes itself.")
@takes_options_of(RunConfig)
def train(
    ctx: typer.Context,
    network: Annotated[
        str | None,
        typer.Argument(metavar="[NET]", help="The same as --net, for example my_module:make_net.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="runs/NET-DATA-seedSEED")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Finish the run in this folder; takes its options from there.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option(help="Write events for TensorBoard, into the folder of the run.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json on one line instead of a table; epochs go to stderr.")
    ] = False,
    **options: Any,
) -> None:
    """Train a network, let it prune itself, and leave the small one with the record of the run in a folder."""
    given = {name: value for name, value in options.items() if _was_given(ctx, name)}
    if network is not None and given.setdefault("net", network) != network:
        raise ConfigError(f"NET {network} and --net {given['net']} are two networks; give one of them")
    if tensorboard:
        check_tensorboard()
    if resume is not None:
        _resume(resume, given, out, tensorboard, as_json)
    else:
        config = resolve(given)
        folder = out or free_folder(config.default_folder)
        if folder != (out or config.default_folder) and first():
            write(f"{config.default_folder} holds a run already; this one goes to {folder}", aside=as_json)
        check_new(folder)
        _train(config, folder, new=True, tensorboard=tensorboard, as_json=as_json)


@app.command(short_help="Show the gates of a run.")
def inspect(folder: Folder, as_json: Json = False) -> None:
    """Show the posterior gate probabilities of a run, finished or not: a table, and a picture in its folder."""
    found = inspect_gates(folder)
    title = f"gates after epoch {found.epoch}; lowest and highest θ of those not removed"
    _show(gate_table(found.summaries, title), found.record, as_json)
    draw_inspected(found)
    if not as_json:
        write(f"picture: {found.picture}")


@app.command(short_help="Score the small network on a test split.")
def evaluate(
    folder: Folder,
    data: Annotated[str | None, typer.Option(help="Data set.", show_default="that of the run")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder of torchvision's data sets.", show_default="that of the run")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Images to tell from the test split's by entropy: a data set or 'noise'.", show_default="none"
        ),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Networks to draw from the posterior of --slab normal.", show_default="32")
    ] = None,
    run_code: RunCode = False,
    as_json: Json = False,
) -> None:
    """Score the compacted network of a run on a test split, and draw how far its probabilities can be believed."""
    scored = score(folder, data, data_dir, against, num_samples, run_code)
    _show(score_table(scored.record), scored.record, as_json)
    draw_score(scored)
    if not as_json:
        _say_smoothing(scored.config)
        write(f"picture: {scored.picture}")


@app.command(short_help="Write a page about a run, or several.")
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="DIR/report.html, or report.html for several")
    ] = None,
    run_code: RunCode = False,
    as_json: Json = False,
) -> None:
    """Write a page about a run, or about several side by side: what was removed and why, how good, how to use it."""
    page = out or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
    told = read_runs(folders, run_code)
    write_report(told, page)
    for net in {str(each.settings.get("net")) for each in told if not run_code}:
        if is_own(net):
            said = f"costs of single structures and latency are left out: they take the code {net}; --run-code runs it"
            write(said, aside=as_json)
    write(json.dumps({"page": str(page), "runs": list(map(record_of, told))}) if as_json else f"page: {page}")


@app.command(short_help="Write the small network in another format.")
def export(
    folder: Folder,
    format: Annotated[str, typer.Option(help="safetensors, torch or onnx.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write.", show_default=False)],
    round_to: Annotated[int, typer.Option(help="Widths are to be multiples of this: zeros fill them up.")] = 1,
    run_code: RunCode = False,
) -> None:
    """Write the compacted network of a run in another format."""
    export_network(folder, format, out, round_to, run_code)
    write(f"wrote {out}")


@app.command(short_help="Compare methods of pruning.")
def compare(
    settings: Annotated[
        str | None, typer.Argument(help="Settings, a TOML file.", show_default="the package's, see --quick")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all files.")] = Path("comparison"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Settings of ten minutes of two cores: digits and MNIST.")
    ] = False,
    workers: Annotated[int, typer.Option(help="How many processes train at a time.")] = 1,
    methods: Annotated[
        str | None, typer.Option(help="Only these of the settings' methods, as a,b,c.", show_default="all")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Only these tasks, as lenet300-digits,lenet5-mnist.", show_default="all")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes and what refuses.")] = False,
    so_far: Annotated[bool, typer.Option("--so-far", help="Only print the table of what is done in --out.")] = False,
    data_dir: Annotated[str, typer.Option(help="Folder of torchvision's data sets.")] = "data",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON instead of a table; runs go to stderr.")
    ] = False,
) -> None:
    """Compare methods of pruning on the same networks, data, batches, compute and number of trials."""
    if so_far:
        check_alone(settings, quick=quick, methods=methods, tasks=tasks, resume=resume, dry_run=dry_run)
        say_so_far(out, as_json)
        return
    plan = planned(settings, quick, methods, tasks)
    if dry_run:
        say_estimate(plan, data_dir, as_json)
        return
    try:
        compare_and_show(plan, out, workers, data_dir, resume, _console(as_json), as_json)
    except KeyboardInterrupt:
        interrupted("Interrupted; go on with the same command and --resume")


def _resume(folder: Path, given: Mapping[str, Any], out: Path | None, tensorboard: bool, as_json: bool) -> None:
    """Go on with the run in ``folder``."""
    stored, _, run = read_config(folder)
    if out is not None and out.resolve() != folder.resolve():
        raise ConfigError(
            f"--out {out} contradicts --resume {folder}: a run goes on in its own folder; leave --out out"
        )
    config = resumed(stored, given, folder)
    result = folder / RESULT
    if result.exists():
        found = read_json(result, record({}, {"run": optional(text)}))
        check_run(result, found.get("run"), run)
        with suppress(ConfigError, FileError), only_process(folder):
            pass  # what a process left that was killed after its last file is cleared away
        write(f"the run in {folder} is finished; its result is in {result}", aside=as_json)
        if as_json:
            write(json.dumps(found))
        return
    _train(config, folder, run, new=False, tensorboard=tensorboard, as_json=as_json)


def _train(
    config: RunConfig, folder: Path, identity: str | None = None, *, new: bool, tensorboard: bool, as_json: bool
) -> None:
    """Do the run in ``folder``, which is made for a new one when data and network are known to be good.

    Of several processes the main one makes the folder, writes and shows; the others wait for it where `fit` first lets
    processes meet.
    """
    run = prepare(config, begun=not new and (folder / CHECKPOINT).exists())
    folder = Path(run.engine.broadcast(str(folder)))  # the others may have seen it when it was there already
    try:
        if run.engine.is_main:
            _train_and_show(run, folder, identity, new, tensorboard, as_json)
        else:
            perform(run, folder, identity=identity)
    except KeyboardInterrupt:
        where = f"from {folder / CHECKPOINT}" if (folder / CHECKPOINT).exists() else "from the start"
        interrupted(f"Interrupted; go on {where} with: bayesprune train --resume {folder}")
    except FileError as error:
        if not (folder / CHECKPOINT).exists():
            raise
        raise FileError(f"{error}; then go on with: bayesprune train --resume {folder}") from error


def _train_and_show(run: Run, folder: Path, identity: str | None, new: bool, tensorboard: bool, as_json: bool) -> None:
    console = _console(as_json)
    loggers = [events_in(folder)] if tensorboard else []
    with new_folder(folder) if new else only_process(folder):
        if new:
            identity = write_config(folder, run.config, tuple(run.example.shape[1:]))
            if is_own(run.config.net) or is_foreign(run.config.net):  # docs say it of the library's own
                write(said_of_gates(structures(run.net, example_input=run.example)), aside=as_json)
        with Display(run.config.epochs, console, aside=as_json) as display:
            result = perform(run, folder, display, identity, loggers)
    assert result is not None
    _show(result_table(result), result, as_json)
    if not as_json:
        _say_smoothing(run.config)
        if result["budget"] is not None:
            write(f"budget {result['budget']}: {'met' if result['budget_met'] else 'not met'}")
    write(f"results: {folder}", aside=as_json)


def _say_smoothing(config: RunConfig) -> None:
    """Say what a calibration error is due to where labels were smoothed."""
    if config.label_smoothing > 0:
        write(
            f"labels were smoothed by {config.label_smoothing:g}: probabilities are less sure than the data by design, "
            "which counts as calibration error"
        )


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _show(table: Table, record: Mapping[str, Any], as_json: bool) -> None:
    """Print a table, or what it is made of as JSON.

    Args:
        table: The table.
        record: Plain values.
        as_json: Whether as JSON.
    """
    if as_json:
        write(json.dumps(record))
    else:
        _console().print(table)


def _console(aside: bool = False) -> Console:
    """Standard output, or standard error; wide enough for a table where it is not a terminal.

    Args:
        aside: Whether standard error, because standard output is JSON.
    """
    console = Console(stderr=aside)
    return console if console.is_terminal else Console(width=100, stderr=aside)
