"""What every benchmark prints or writes: the machine, the versions, a Markdown table, a JSON file."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyro
import torch

import bayesprune
from bayesprune.atomic import write_atomically


def machine() -> str:
    """One line on processor, cores and versions."""
    is_ = facts()
    return (
        f"{is_['processor']}, {is_['cores']} cores, {is_['threads']} threads, {is_['gpu'] or 'no GPU'}; "
        f"Python {is_['python']}, torch {is_['torch']}, Pyro {is_['pyro']}, bayesprune {is_['bayesprune']}"
    )


def facts() -> dict[str, Any]:
    """Processor, GPU (``None`` without one) and versions (``None`` for what is not installed)."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "pyro": pyro.__version__,
        "torch_pruning": _version("torch-pruning"),
        "only_train_once": _version("only_train_once"),
        "bayesprune": bayesprune.__version__,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
