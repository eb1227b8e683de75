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
    assert run == "python -m pytest -n 2 --dist loadfile"


@needs_bash
def test_blocks_are_counted_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\none\n```\n```python\nbash\n```\n```bash\ntwo\nlines\n```\n")
    assert block(1, page).stdout == "one\n"
    assert block(2, page).stdout == "two\nlines\n"
    assert block(3, page).returncode != 0 and "no bash block 3" in block(3, page).stderr


@needs_bash
@pytest.mark.parametrize("name", ["run", "block", "chromium", "oldest"])
def test_scripts_are_whole_and_can_be_executed(name: str) -> None:
    script = ROOT / ".ci" / name
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


# what runs ------------------------------------------------------------------------------------------------------------

STAND_IN = """#!/usr/bin/env bash
# Stands in for every program of a virtual environment: notes what it was asked for, and fails where it is to fail.
line="$(basename "$(dirname "$(dirname "$0")")") $(basename "$0") $* [${PIP_CONSTRAINT-no constraint}]"
echo "$line" >>"$LOG"
if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
for name in pip ruff mypy mkdocs; do [[ $1 == -m && $2 == venv ]] && cp "$0" "$3/bin/$name"; done
[[ -z $FAILING || $line != $FAILING* ]]
"""


def run(tmp_path: Path, failing: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """`.ci/run` with stand-ins, and each program that it ran: environment, name, arguments, constraint of pip."""
    python, log = tmp_path / "machine" / "bin" / "python", tmp_path / "log"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "LOG": str(log), "FAILING": failing}
    settings |= {"PIP_CONSTRAINT": "capped.txt", "CHROMIUM": "there"}
    done = subprocess.run([ROOT / ".ci" / "run"], env={**os.environ, **settings}, capture_output=True, text=True)
    return done, log.read_text().splitlines()


@needs_bash
def test_the_suite_also_runs_with_the_oldest_and_the_newest_torch(tmp_path: Path) -> None:
    """In environments of their own, and not held back by a constraint on the machine's torch."""
    done, ran = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "venv pip install -e .[test] [capped.txt]" in ran
    assert "venv python -m pytest -n 2 --dist loadfile [capped.txt]" in ran
    assert "oldest pip install --upgrade -e .[test] torch==2.6.* torchvision==0.21.* [/dev/null]" in ran
    assert "newest pip install --upgrade -e .[test] torch torchvision [/dev/null]" in ran
    suites = [line.split()[0] for line in ran if "python -m pytest -p no:cacheprovider" in line]
    assert sorted(suites) == ["newest", "oldest"]
    for name in ("venv", "oldest", "newest"):  # each says which versions it has, and has run
        assert any(line.startswith(f"{name} python -c import platform, torch, torchvision") for line in ran)


@needs_bash
@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_a_suite_that_fails_with_another_torch_fails_the_whole(tmp_path: Path, name: str) -> None:
    done, ran = run(tmp_path, failing=f"{name} python -m pytest")
    assert done.returncode != 0 and f"the torch called {name} above" in done.stdout
    assert sum("no:cacheprovider" in line for line in ran) == 2  # the other has run to its end


@needs_bash
def test_a_stage_that_fails_ends_the_run(tmp_path: Path) -> None:
    done, ran = run(tmp_path, failing="venv mypy")
    assert done.returncode != 0 and ran[-1].startswith("venv mypy") and "== done" not in done.stdout


@needs_bash
def test_the_oldest_release_is_the_one_that_the_project_states(tmp_path: Path) -> None:
    def oldest(*packages: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", ROOT / ".ci" / "oldest", ROOT / "pyproject.toml", *packages], capture_output=True, text=True
        )

    assert oldest("torch", "torchvision").stdout.splitlines() == ["torch==2.6.*", "torchvision==0.21.*"]
    unknown = oldest("torch", "tensorboard")
    assert unknown.returncode != 0 and '"tensorboard>=VERSION"' in unknown.stderr


def test_ci_takes_the_test_command_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert ".ci/block 2 README.md" in script and "--cov-fail-under=90" in script
    for stage in ("ruff check", "ruff format --check", "mypy", "-m slow", "-m examples", "-m browser"):
        assert stage in script


def test_everything_but_browser_examples_gpu_and_slow_runs_by_default() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    assert "-m 'not browser and not examples and not gpu and not slow'" in settings
