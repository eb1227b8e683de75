"""The commands and their options."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bayesprune.cli.config import RunConfig, read_config, resumed, versions, write_config
from bayesprune.cli.errors import INTERRUPTED, Commands, say
from bayesprune.cli.finished import export as export_network
from bayesprune.cli.finished import inspect_gates, score
from bayesprune.cli.folder import check_new, new_folder
from bayesprune.cli.progress import Display
from bayesprune.cli.run import CHECKPOINT, RESULT, perform, prepare
from bayesprune.errors import ConfigError
from bayesprune.reports import gate_table, result_table, score_table

DEFAULT = RunConfig()

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Folder = Annotated[Path, typer.Argument(help="Folder of a run, as 'bayesprune train' left it.", show_default=False)]


def main() -> None:
    """Entry point of the command ``bayesprune``."""
    app(prog_name="bayesprune")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo("bayesprune {bayesprune} (torch {torch}, pyro {pyro}, python {python})".format(**versions()))
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train Bayesian neural networks that prune themselves."""


@app.command()
def train(
    ctx: typer.Context,
    net: Annotated[str, typer.Option(help="Network: lenet300, lenet5, resmlp or resmlpDEPTH.")] = DEFAULT.net,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, cifar100 or imagefolder:PATH.")
    ] = DEFAULT.data,
    epochs: Annotated[int, typer.Option(help="Length of the run.")] = DEFAULT.epochs,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DEFAULT.seed,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = DEFAULT.batch_size,
    lr: Annotated[float, typer.Option(help="Peak learning rate of the weights.")] = DEFAULT.lr,
    price: Annotated[
        float, typer.Option(help="Worth of the network's cost, nats per example; more prunes more.")
    ] = DEFAULT.price,
    log_gamma: Annotated[
        float | None,
        typer.Option(
            help="One price for all structures instead, nats for the whole data set.", show_default="not used"
        ),
    ] = DEFAULT.log_gamma,
    label_smoothing: Annotated[
        float, typer.Option(help="Probability that a label is taken to be random.")
    ] = DEFAULT.label_smoothing,
    estimator: Annotated[str, typer.Option(help="Estimator of the gates' gradient.")] = DEFAULT.estimator,
    slab: Annotated[str, typer.Option(help="Posterior of the weights; only 'point' so far.")] = DEFAULT.slab,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:NUMBER or mps.")] = DEFAULT.device,
    limit: Annotated[
        int | None, typer.Option(help="Use so many training examples.", show_default="all")
    ] = DEFAULT.limit,
    data_dir: Annotated[str, typer.Option(help="Folder of torchvision's data sets.")] = DEFAULT.data_dir,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="runs/NET-DATA-seedSEED")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Finish the run in this folder; takes its options from there.")
    ] = None,
) -> None:
    """Train a network, let it prune itself, and leave the small one with the record of the run in a folder."""
    # The options bear the names of RunConfig's fields, so the parsed values are taken as they come.
    asked = RunConfig(**{field.name: ctx.params[field.name] for field in fields(RunConfig)})
    given = {name for name in ctx.params if _was_given(ctx, name)}
    if {"price", "log_gamma"} <= given:
        raise ConfigError("--price and --log-gamma are two ways to price structures; give one of them")
    if resume is not None:
        _resume(resume, asked, given, out)
    else:
        _start(asked, out or asked.default_folder)


@app.command()
def inspect(folder: Folder) -> None:
    """Show the posterior gate probabilities of a run, finished or not: a table, and a picture in its folder."""
    summaries, epoch, picture = inspect_gates(folder)
    _console().print(gate_table(summaries, f"gates after epoch {epoch}"))
    typer.echo(f"picture: {picture}")


@app.command()
def evaluate(
    folder: Folder,
    data: Annotated[str | None, typer.Option(help="Data set.", show_default="that of the run")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder of torchvision's data sets.", show_default="that of the run")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score the compacted network of a run on a test split."""
    result = score(folder, data, data_dir)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _console().print(score_table(result))


@app.command()
def export(
    folder: Folder,
    format: Annotated[str, typer.Option(help="safetensors, torch or onnx.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write.", show_default=False)],
) -> None:
    """Write the compacted network of a run in another format."""
    export_network(folder, format, out)
    typer.echo(f"wrote {out}")


def _start(config: RunConfig, folder: Path) -> None:
    """A new run; its folder is made when data and network are known to be good."""
    check_new(folder)
    _train(config, folder, new=True)


def _resume(folder: Path, asked: RunConfig, given: set[str], out: Path | None) -> None:
    """Go on with the run in ``folder``."""
    stored, _ = read_config(folder)
    if out is not None and out.resolve() != folder.resolve():
        raise ConfigError(
            f"--out {out} contradicts --resume {folder}: a run goes on in its own folder; leave --out out"
        )
    config = resumed(stored, asked, given, folder)
    if (folder / RESULT).exists():
        typer.echo(f"the run in {folder} is finished; its result is in {folder / RESULT}")
        return
    _train(config, folder, new=False)


def _train(config: RunConfig, folder: Path, *, new: bool) -> None:
    run = prepare(config)
    console = _console()
    try:
        with new_folder(folder, CHECKPOINT) if new else nullcontext():
            if new:
                write_config(folder, config, tuple(run.example.shape[1:]))
            with Display(config.epochs, console) as display:
                result = perform(run, folder, display)
    except KeyboardInterrupt:
        where = f"from {folder / CHECKPOINT}" if (folder / CHECKPOINT).exists() else "from the start"
        say("error", f"interrupted; go on {where} with: bayesprune train --resume {folder}")
        raise typer.Exit(INTERRUPTED) from None
    console.print(result_table(result))
    typer.echo(f"results: {folder}")


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _console() -> Console:
    """Standard output; wide enough for a table where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=100)
