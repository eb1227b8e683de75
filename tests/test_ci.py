"""README's two commands are where `.ci/run` and a newcomer find them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def block(number: int, file: Path = ROOT / "README.md") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", ROOT / ".ci" / "block", str(number), file], capture_output=True, text=True)


def test_the_first_blocks_of_the_readme_are_two_of_shell() -> None:
    languages = re.findall(r"^```(\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert languages[:2] == ["bash", "bash"] and languages.count("bash") == 2


@needs_bash
def test_the_first_command_installs_and_trains() -> None:
    assert block(1).stdout.splitlines() == ["pip install .", "bayesprune train"]


@needs_bash
def test_the_second_command_installs_and_tests() -> None:
    install, run = block(2).stdout.splitlines()
    assert install == 'pip install -e ".[test]"'
    assert run == "python -m pytest"


@needs_bash
def test_blocks_are_counted_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\none\n```\n```python\nbash\n```\n```bash\ntwo\nlines\n```\n")
    assert block(1, page).stdout == "one\n"
    assert block(2, page).stdout == "two\nlines\n"
    assert block(3, page).returncode != 0 and "no bash block 3" in block(3, page).stderr


@needs_bash
@pytest.mark.parametrize("name", ["run", "block"])
def test_scripts_are_whole_and_can_be_executed(name: str) -> None:
    script = ROOT / ".ci" / name
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


def test_ci_takes_the_test_command_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert ".ci/block 2 README.md" in script and "--cov-fail-under=90" in script
    for stage in ("ruff check", "ruff format --check", "mypy", "-m slow", "-m examples"):
        assert stage in script


def test_everything_but_examples_gpu_and_slow_runs_by_default() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    assert "-m 'not examples and not gpu and not slow'" in settings
