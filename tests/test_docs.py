"""The pages say what is so: their Python runs, their links lead somewhere, no option or file of a run is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from bayesprune import networks, training
from bayesprune.cli import commands
from bayesprune.infer.estimators import ESTIMATORS
from bayesprune.methods import NAMES
from bayesprune.types import Removal

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and text of every Python block."""
    text = page.read_text()
    return [(text[: m.start(2)].count("\n"), m[2]) for m in FENCE.finditer(text) if m[1] == "python"]


def prose(page: Path) -> str:
    """A page without its code."""
    return INDENTED.sub("", FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]
TRAINS_LONG = {
    "README.md",
    *(f"{name}.md" for name in ("comparison", "quickstart", "flow", "report", "tables", "which_inputs")),
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.name in TRAINS_LONG), id=page.name) for page in WITH_PYTHON],
)
def test_python_on_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, block in python_blocks(page):
        code = compile("\n" * line + block, str(page), "exec")  # so that an error names the page's own line
        exec(code, namespace)


FILES = [(page, m[2]) for page in PAGES for m in FENCE.finditer(page.read_text()) if m[1] == "py"]


def test_files_that_a_page_asks_for_serve_as_it_says(tmp_path: Path) -> None:
    """What a page has the reader save in the package runs in a process of its own, as it changes what is registered."""
    assert {page.name for page, _ in FILES} == {"flow.md"}
    script = tmp_path / "script.py"
    script.write_text("\n\n".join(block for _, block in FILES))
    subprocess.run([sys.executable, script], check=True)


def test_there_is_python_to_run() -> None:
    assert {page.name for page in WITH_PYTHON} >= {"README.md", "quickstart.md", "method.md", "flow.md"}


def test_the_first_example_of_the_quickstart_has_twenty_lines() -> None:
    _, block = python_blocks(ROOT / "docs" / "quickstart.md")[0]
    assert len(block.strip().splitlines()) == 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if "://" in target:
            continue
        other = page.parent / target if target else page
        assert other.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(other), (
                f"{page.name} links to {target}#{anchor}; there is {sorted(anchors(other))}"
            )


def options(command: str) -> set[str]:
    """Long options of a command of the command line."""
    group = typer.main.get_command(commands.app)
    return {opt for p in group.commands[command].params for opt in p.opts if opt.startswith("--")}  # type: ignore[attr-defined]


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next of its level."""
    level = heading.split()[0]
    text = (ROOT / "docs" / page).read_text()
    return text.split(f"\n{heading}", 1)[1].split(f"\n{level} ", 1)[0]


@pytest.mark.parametrize("command", ["train", "inspect", "report", "evaluate", "export", "compare"])
def test_every_option_is_documented_and_nothing_else(command: str) -> None:
    text = section("cli.md", f"## `bayesprune {command}")
    documented = set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE))
    assert documented == options(command) - {"--help"}


def test_every_command_is_documented() -> None:
    group = typer.main.get_command(commands.app)
    named = set(re.findall(r"^## `bayesprune (\w+)", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE))
    assert named == set(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "names",
    [
        ESTIMATORS,
        networks.NETWORKS,
        [f.name for f in fields(training.EpochRow)],
        [f.name for f in fields(Removal)],
    ],
)
def test_every_name_of_the_command_line_is_documented(names: list[str]) -> None:
    text = section("cli.md", "## `bayesprune train")
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_estimator_is_on_the_method_page() -> None:
    assert [name for name in ESTIMATORS if f"| `{name}` |" not in section("method.md", "## Estimators")] == []


def test_every_file_and_key_of_a_run_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(commands.app, ["train", "--epochs", "1", "--limit", "200", "--out", "run"])
    assert result.exit_code == 0, result.output
    left = {path.name for path in (tmp_path / "run").iterdir()}
    text = section("cli.md", "## `bayesprune train")
    assert set(re.findall(r"^\| `([\w.]+\.\w+)` \|", text, re.MULTILINE)) == left | {"inspect.png", "report.html"}
    readme = (ROOT / "README.md").read_text()
    assert [name for name in left if f"| `{name}` |" not in readme] == []
    keys = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_every_method_has_a_row() -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs" / "methods.md").read_text().splitlines() if line[:3] == "| `"]
    missing = [name for name in NAMES if not any(f"`{name}`" in row for row in rows)]
    assert not missing
