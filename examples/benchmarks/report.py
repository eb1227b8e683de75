"""What every benchmark prints or writes: the machine, the versions, a Markdown table, a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bayesprune.atomic import write_atomically
from bayesprune.comparison.machine import facts as machine_facts
from bayesprune.comparison.machine import installed

ROWS = "rows.jsonl"
"""The file of the rows that a benchmark keeps, so that it goes on where it stopped."""


def machine() -> str:
    """One line on processor, cores and versions."""
    is_ = facts()
    return (
        f"{is_['processor']}, {is_['cores']} cores, {is_['threads']} threads, {is_['gpu'] or 'no GPU'}; "
        f"Python {is_['python']}, torch {is_['torch']}, Pyro {is_['pyro']}, bayesprune {is_['bayesprune']}"
    )


def facts() -> dict[str, Any]:
    """Processor, GPU (``None`` without one) and versions (``None`` for what is not installed)."""
    peers = {"torch_pruning": "torch-pruning", "only_train_once": "only_train_once"}
    return {**machine_facts(), **{key: installed(package) for key, package in peers.items()}}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` so that the file is whole at all times."""
    write_atomically(path, json.dumps(content, indent=1).encode())


def same_as_before(path: Path, now: dict[str, Any]) -> None:
    """Refuse to mix in one folder what was made in two ways.

    Args:
        path: The file that says how it was made; written if it is not there.
        now: How it is to be made now, as JSON gives it back.

    Raises:
        SystemExit: if that is another way.
    """
    before = json.loads(path.read_text()) if path.exists() else now
    changed = [f"{key} was {before.get(key)} and is {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        raise SystemExit(f"{path.parent} holds another run: {'; '.join(changed)}; give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def kept_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a benchmark has kept in a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ROWS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep_row(folder: Path, row: dict[str, Any]) -> None:
    """Add a row to those of a folder."""
    with (folder / ROWS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
