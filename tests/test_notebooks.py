"""The notebooks run and check themselves, are built alike, and hold what a reader of the site is to see."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.test_docs import LINK, anchors

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 300
"""Each takes less than half a minute on an idle core; this is for busy machines."""
STRICT = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "IProgress not found")  # Pyro's bars ask for widgets; none is shown
warnings.filterwarnings("default", module="ipykernel")
"""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[NotebookNode]:
    """Cells of a kind, ``"code"`` or ``"markdown"``."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_are_the_tutorials() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {
        *("own_network", "torchvision_to_onnx", "latency_budget", "which_inputs", "how_sure", "pyro_workflow"),
        *("compare_methods", "several_processes"),
    }


@pytest.mark.examples
@each
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()


@each
def test_a_notebook_says_what_it_is_for_and_where_to_go(path: Path) -> None:
    first, *_, last = (cell.source for cell in cells(path, "markdown"))
    assert first.startswith("# ") and "**What you will have at the end:**" in first
    assert re.search(r"^## What to read next\n\n- \[", last, re.MULTILINE)


@each
def test_a_notebook_checks_its_results(path: Path) -> None:
    assert sum(len(re.findall(r"^ *assert ", cell.source, re.MULTILINE)) for cell in cells(path, "code")) >= 3


@each
def test_a_notebook_was_executed_in_order_without_an_error_and_is_small(path: Path) -> None:
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and all(output.get("name") != "stderr" and output.output_type != "error" for output in outputs)
    assert "/" + "tmp/" not in (text := path.read_text()) and "/home/" not in text
    assert len(text) < 300_000 and all(not cell.metadata for cell in code)


@each
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target, anchor in LINK.findall(cell.source):
            if "://" not in target:
                assert (path.parent / target).exists(), target
                assert not anchor or anchor in anchors(path.parent / target), f"{target}#{anchor}"


def test_every_notebook_is_in_the_contents() -> None:
    root = FOLDER.parent.parent
    for path in NOTEBOOKS:
        assert f"notebooks/{path.name}" in (root / "README.md").read_text(), path.stem
        assert f"(notebooks/{path.name})" in (root / "docs" / "index.md").read_text(), path.stem
        assert f"- notebooks/{path.stem}.md" in (root / "mkdocs.yml").read_text(), path.stem
