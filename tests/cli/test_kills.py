"""Runs that are killed at any moment, again and again, end with the numbers and files of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bayesprune.cli.record import CONFIG
from tests.cli.verify import verify_same_end

ROOT = Path(__file__).parents[2]
RUN = ("--epochs", "4", "--limit", "240", "--batch-size", "16", "--lr", "0.02")
KILLS = 17
"""Of each kind of run."""

Order = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def order() -> Iterator[Order]:
    """What forks a command off a process in which everything is imported, maybe to be killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.cli.killing"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as server:

        def ask(*args: str | Path, **when: object) -> dict[str, Any]:
            server.stdin.write(json.dumps({"args": [str(arg) for arg in args], **when}) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield ask


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--log-gamma", "0.2"), id="points"),
        pytest.param(("--budget", "macs=0.4"), id="budget"),
        pytest.param(("--slab", "normal"), id="normal weights"),
    ],
)
def test_killed_at_random(options: tuple[str, ...], order: Order, tmp_path: Path):
    """Half of the kills are at a random time, half at a random system call by which files are written."""
    chance = random.Random("".join(options))
    unbroken = tmp_path / "unbroken"
    whole = order("train", *RUN, *options, "--out", unbroken)
    assert whole["status"] == 0
    kills = finished = 0
    while kills < KILLS or finished == 0:
        folder = tmp_path / f"killed-{finished}"
        for _ in range(4):
            how = ("--resume", folder) if (folder / CONFIG).exists() else (*RUN, *options, "--out", folder)
            if chance.random() < 0.5:
                ended = order("train", *how, after=chance.uniform(0, whole["seconds"]))
            else:
                call = chance.randint(1, whole["calls"] // 2)
                ended = order("train", *how, call=call, before=chance.random() < 0.5)
            assert ended["status"] in (0, -signal.SIGKILL)
            kills += ended["status"] != 0
        how = ("--resume", folder) if (folder / CONFIG).exists() else (*RUN, *options, "--out", folder)
        assert order("train", *how)["status"] == 0
        verify_same_end(folder, unbroken)  # no file left over, hidden ones included
        finished += 1
