"""The examples run, and check their own results."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = ["digits_quickstart", "find_the_depth", "own_network", "plain_pyro", "which_inputs_matter"]
SECONDS = 300
"""Each takes less than a minute on an idle core; this is for busy machines."""


def test_every_example_is_listed() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_says_what_it_is_for_and_checks_its_result(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    said = ast.get_docstring(tree) or ""
    assert f"python examples/{name}.py" in said and len(said.split()) > 40
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) >= 3


@pytest.mark.examples
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout and list(tmp_path.iterdir()) == []
