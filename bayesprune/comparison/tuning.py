"""The options that trials on held-out training data speak for, written down once and not changed after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from bayesprune.atomic import file_errors, write_atomically
from bayesprune.comparison.goals import exact
from bayesprune.comparison.identity import digest_of
from bayesprune.comparison.plan import Plan, Task
from bayesprune.comparison.rows import Row
from bayesprune.errors import CheckpointError, ConfigError


def choose(rows: Sequence[Row]) -> dict[str, Any]:
    """What the trials of a method on a task speak for: the highest accuracy, of equal ones the lowest NLL.

    Args:
        rows: Their rows, the defaults first.

    Returns:
        ``trial`` and ``options``; ``accuracy`` on held-out examples, that of the ``defaults``, and ``touchiness``, by
        how much the best is above the median. Where all trials came to nothing, those of the defaults.
    """
    told = [row for row in rows if not row.error]
    best = max(told, key=lambda row: (row.accuracy, -row.nll, -row.trial), default=rows[0])
    fine = [row.accuracy for row in told]
    return {
        "trial": best.trial,
        "options": json.loads(best.options),
        "accuracy": best.accuracy if fine else None,
        "defaults": None if rows[0].error else rows[0].accuracy,
        "touchiness": max(fine) - median(fine) if fine else None,
        "failed": len(rows) - len(fine),
    }


def freeze(path: Path, settings: str, chosen: dict[str, Any]) -> None:
    """Write what was chosen of a method on a task, once.

    Args:
        path: The file.
        settings: What tells the plan, its data and its networks from others.
        chosen: From `choose`, and by goal the ``epochs`` of a run.
    """
    content = {"settings": settings, "chosen": chosen}
    with file_errors("make the folder", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"digest": digest_of(content), **content}, indent=1).encode())


def file_of(folder: Path, task: Task, method: str, compute: float) -> Path:
    """Where `freeze` writes what was chosen.

    Args:
        folder: That of the comparison.
        task: On what the method is compared.
        method: Its name.
        compute: What each run may take.
    """
    return folder / "frozen" / task.name / method / f"x{exact(compute)}.json"


def all_frozen(folder: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """By task and method, what was chosen so far, with the ``epochs`` for each multiple of compute.

    Args:
        folder: That of the comparison.
        plan: What is compared.

    Raises:
        CheckpointError: if a file was changed since, or is damaged.
    """
    chosen: dict[str, dict[str, Any]] = {task.name: {} for task in plan.tasks}
    for compute, task, method in product(plan.compute, plan.tasks, plan.methods):
        path = file_of(folder, task, method, compute)
        if path.exists():
            found = frozen(path)[0]
            its = chosen[task.name].setdefault(method, {**found, "epochs": {}})
            its["epochs"][f"x{exact(compute)}"] = found["epochs"]
    return chosen


def frozen(path: Path, settings: str | None = None) -> tuple[dict[str, Any], str]:
    """What `freeze` wrote, and its digest.

    Args:
        path: The file.
        settings: As for `freeze`; ``None`` for whatever they are.

    Raises:
        CheckpointError: if the file was changed since, or is damaged.
        ConfigError: if it is that of other settings.
    """
    with file_errors("read", path):
        text = path.read_text()
    try:
        said = json.loads(text)
        digest, content = said.pop("digest"), said
        chosen, made_for = content["chosen"], content["settings"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); tune anew in another folder") from error
    if digest != digest_of(content):
        raise CheckpointError(
            f"{path} was changed after the options were chosen: test images are not looked at with other ones; bring "
            "back the file as it was, or tune anew in another folder"
        )
    if settings is not None and made_for != settings:
        raise ConfigError(f"{path} is that of other settings, data or networks; give those, or another folder")
    return chosen, digest
