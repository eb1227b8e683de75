"""What every benchmark prints: the machine, the versions and a Markdown table."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pyro
import torch

import bayesprune


def machine() -> str:
    """One line on processor, cores and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"Pyro {pyro.__version__}, bayesprune {bayesprune.__version__}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
