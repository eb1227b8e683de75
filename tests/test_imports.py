"""What is imported when: nothing before it is needed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import bayesprune

SLOW = ("sklearn", "matplotlib", "lightning_fabric", "pyro.contrib", "torchvision", "torchmetrics", "scipy", "pandas")
FRONT_DOOR = "import bayesprune; [getattr(bayesprune, name) for name in bayesprune.__all__]"
VERSION = (
    "import sys, runpy; sys.argv = ['bayesprune', '--version']; runpy.run_module('bayesprune', run_name='__main__')"
)

COMPLETION = (
    "import os, sys; from bayesprune.cli import main; sys.argv = ['bayesprune']\n"
    "os.environ.update(_BAYESPRUNE_COMPLETE='complete_bash', COMP_WORDS='bayesprune tr', COMP_CWORD='1')\n"
    "try: main()\nexcept SystemExit as end: assert end.code == 0"
)


def run(code: str) -> float:
    """Seconds of a process of its own that does ``code``, which must end well."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import bayesprune", ("torch", "pyro", "numpy", "rich", "typer", *SLOW)),
        (VERSION, ("torch", "pyro", "numpy", "rich", "typer", *SLOW)),
        (COMPLETION, ("torch", "pyro", "numpy", *SLOW)),
        (FRONT_DOOR, ("rich", "typer", *SLOW)),
        ("import bayesprune.cli.commands, bayesprune.reports", SLOW),
    ],
    ids=["import", "--version", "completion", "every public name", "the commands"],
)
def test_what_is_not_imported(code: str, without: tuple[str, ...]) -> None:
    run(f"{code}\nimport sys; found = set(sys.modules) & set({without!r}); assert not found, found")


@pytest.mark.slow
def test_importing_is_quick() -> None:
    torch, everything, version = (min(run(code) for _ in range(3)) for code in ("import torch", FRONT_DOOR, VERSION))
    assert everything - torch < 1.5
    assert version < 1.0


def test_names_are_there_before_they_are_imported() -> None:
    run(
        "import bayesprune; assert set(bayesprune.__all__) <= set(dir(bayesprune))\n"
        "from bayesprune import *; assert layers.Linear and fit is bayesprune.fit"
    )


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'bayesprune' has no attribute 'nothing'"):
        bayesprune.nothing  # noqa: B018
