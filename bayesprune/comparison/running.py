"""One run from its beginning to its row."""

from __future__ import annotations

import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bayesprune.atomic import file_errors
from bayesprune.comparison.goals import MACS, WEIGHTS
from bayesprune.comparison.material import Material, example
from bayesprune.comparison.measuring import Clock, forget_peak, latencies, nonzero, peak_mib, scores
from bayesprune.comparison.rows import ROW, Row, read_row, write_row
from bayesprune.comparison.runs import TEST, Run
from bayesprune.comparison.training import Begun, train
from bayesprune.data import Splits
from bayesprune.errors import BayesPruneError, CheckpointError, ConfigError, NonFiniteLossError
from bayesprune.pruning import compact, cost, save
from bayesprune.training.lock import only_process

MODEL, CLOCK = "model.safetensors", "clock.json"
SLACK = 1.05
"""How much more than it is allowed a run may take to compute: what it takes differs from seed to seed."""


def row_of(run: Run, root: Path, material: Material, held_out: float) -> Row:
    """The row of a run, which is made unless it was before; a run that comes to nothing leaves one that says why.

    Args:
        run: The run.
        root: The folder of the comparison.
        material: Where networks and data come from.
        held_out: Which share of the training examples the stages before the test are scored on.

    Raises:
        CheckpointError: if the folder holds a row that was made by other settings, or a file that is damaged.
        ConfigError: if another process makes the run.
        FileError: if a file cannot be read or written.
    """
    path = root / run.folder / ROW
    with file_errors("make the folder", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_errors("make the run in", path.parent), only_process(path.parent):
        if not path.exists():
            return _made(run, root, material, held_out)
        row = read_row(path)
    if row.settings != run.settings:
        raise CheckpointError(f"{path} was made by other settings ({row.settings}, now {run.settings}); delete it")
    return row


def _made(run: Run, root: Path, material: Material, held_out: float) -> Row:
    """The row of a run that is made now.

    Args:
        run: The run.
        root: As for `row_of`.
        material: As for `row_of`.
        held_out: As for `row_of`.
    """
    folder = root / run.folder
    splits = material.held_out(run.task, held_out) if run.stage != TEST else material.splits(run.task)
    clock = Clock(folder / CLOCK)
    begun = Begun(run, material, splits, material.recipe(run.task, splits), folder, root, clock)
    forget_peak()
    said: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = _ended(begun, clock)
    except (OSError, CheckpointError):  # of the machine, and no answer of the method: the next time may do better
        raise
    except NonFiniteLossError as error:
        found = {**_guessing(splits), "error": _line(error)}
    except Exception as error:  # whatever it is, others go on
        found = {"error": _line(error)}
    found = {"cpu_seconds": clock.seconds, **found, "peak_mib": peak_mib(), "version": version("bayesprune")}
    row = Row.of(run, **found, warnings="; ".join(dict.fromkeys(str(one.message) for one in said)))
    write_row(folder / ROW, row)
    for name in ("checkpoint.pt", "history.csv", CLOCK):
        (folder / name).unlink(missing_ok=True)
    return row


def _ended(begun: Begun, clock: Clock) -> dict[str, Any]:
    """What a run ended with.

    Args:
        begun: What it begins with.
        clock: Stopped where the network is there, before it is scored.
    """
    if begun.run.parent is not None and not (begun.root / begun.run.parent / MODEL).exists():
        raise ConfigError("the run whose network this one begins with came to nothing")
    net, history = train(begun)
    small, (macs, weights) = compact(net), begun.dense
    seconds, size, kept = clock.seconds, cost(small, example(begun.splits)), nonzero(small)
    found: dict[str, Any] = {"macs": size.macs, "params": size.params, "weights": kept}
    found |= {"epochs": len(history.rows), "cpu_seconds": seconds}
    found |= {"macs_left": (size.macs or 0) / macs, "weights_left": kept / weights}
    found |= {"charged": history.charged * begun.run.compute / begun.allowed()}
    left = {MACS: found["macs_left"], WEIGHTS: nonzero(net) / weights}.get(begun.run.goal.measure, 1.0)
    found["error"] = _unfair(begun.run, left, found["charged"])
    found |= _guessing(begun.splits) if found["error"] else scores(small, begun.splits, begun.recipe.batch_size)
    if begun.run.stage == TEST:
        found |= latencies(small, example(begun.splits))
        save(small, begun.folder / MODEL)
    return found


def _guessing(splits: Splits) -> dict[str, float]:
    """The scores of one that guesses, which a run that fails has."""
    return {"accuracy": 1 / splits.num_classes, "nll": math.log(splits.num_classes)}


def _unfair(run: Run, left: float, charged: float) -> str:
    """Why what a run ended with cannot stand beside others; empty if it can.

    Args:
        run: The run.
        left: What is left, in the measure of its goal.
        charged: What it took to compute, in units of a dense run.
    """
    if run.goal.missed(left):
        least, most = run.goal.allowed
        return (
            f"left {left:.4f} of the {run.goal.measure}, asked for {run.goal.share:g}; allowed are {least:.4g} to "
            f"{most:.4g}"
        )
    if run.stage == TEST and charged > SLACK * run.compute:
        return f"took {charged:.3f} times what a dense run computes, allowed are {run.compute:g}"
    return ""


def _line(error: Exception) -> str:
    """An error on one line, with its kind if it is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BayesPruneError) else f"{type(error).__name__}: {text}"
