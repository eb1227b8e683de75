"""The examples run, and check their own results."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = [
    *("area_under_curve", "digits_quickstart", "find_the_depth", "front_page", "fuse_layers", "hessian_norms"),
    *("own_network", "plain_pyro", "sparse_regression", "which_inputs_matter"),
]
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


def run(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", FOLDER / script, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.examples
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, tmp_path: Path) -> None:
    done = run(f"{name}.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout and list(tmp_path.iterdir()) == []


@pytest.mark.examples
def test_the_image_benchmark_stops_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    command = "benchmarks/cifar.py", tmp_path, "--smoke", "--out", "out"
    stopped = run(*command, "--minutes", "0")
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stdout.count("epoch ") == 1
    done = run(*command)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    check_smoke(result, done.stdout)
    again = run(*command)
    assert again.returncode == 0 and "epoch " not in again.stdout, again.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["rows"] == result["rows"]
    other = run(*command, "--lr", "0.01")
    assert other.returncode == 1 and "lr was 0.08 and is 0.01" in other.stderr


def check_smoke(result: dict[str, Any], printed: str) -> None:
    """What the smoke run must have found."""
    rows = {row["pipeline"]: row for row in result["rows"]}
    with_peer = importlib.util.find_spec("torch_pruning") is not None
    with_hesso = with_peer and importlib.util.find_spec("only_train_once") is not None
    assert ("peer is left out" not in printed) == with_peer == ("peer" in rows)
    assert ("hesso is left out" not in printed) == with_hesso == ("hesso" in rows)
    assert with_hesso or "pip install 'bayesprune[bench]'" in printed
    members = {"narrower", "shallower"}  # there may be none that is so small
    assert rows.keys() - members - {"peer", "hesso"} == {"dense", "gated", "scratch", "scratch-equal", "scratch-rise"}
    # ResNet-20 of 4, 8 and 16 channels on 8x8, 4x4 and 2x2: each of the nine blocks 18 * (4 * 8)**2, but the first of
    # the second and third stage three quarters of that and a by-pass.
    dense = rows["dense"]
    assert dense["macs"] == 64 * 36 + 18 * 1024 * 7 + 2 * (18 * 1024 * 3 // 4 + 512) + 160
    assert dense["layers"] == 22 and dense["branches"] == [9, 9] and len(dense["epochs"]) == 8
    assert rows["gated"]["branches"][0] < 9
    assert 0 < rows["gated"]["macs"] < 0.5 * dense["macs"]
    for name, row in rows.items():
        assert row["accuracy"] > (0.1 if name == "hesso" else 0.3), name  # chance; HESSO leaves single channels of four
        assert row["charged"] > 0 and row["seconds"] > 0
    for name in rows.keys() - {"dense", "gated"}:
        assert rows[name]["macs"] <= rows["gated"]["macs"], name
    for name in ("scratch", "scratch-equal", "scratch-rise"):
        assert rows[name]["params"] == rows["gated"]["params"] and rows[name]["macs"] == rows["gated"]["macs"]
    assert rows["scratch"]["charged"] < rows["gated"]["charged"] < dense["charged"]
    assert rows["scratch-equal"]["charged"] == pytest.approx(rows["gated"]["charged"], rel=1 / 8)
    if "peer" in rows:
        assert 0.8 * rows["gated"]["macs"] < rows["peer"]["macs"] <= rows["gated"]["macs"]
        assert len(rows["peer"]["epochs"]) == 4 and rows["peer"]["seconds"] > dense["seconds"]
    compared = {entry["pipeline"]: entry for entry in result["comparisons"]}
    assert compared["gated"]["to dense"]["macs"] == rows["gated"]["macs"] / dense["macs"]
    assert result["step at the start"]["ratio"] > 0 and result["machine"]["torch"]


@pytest.mark.examples
def test_the_benchmark_of_whole_runs_compares_and_repeats_nothing(tmp_path: Path) -> None:
    command = "benchmarks/run.py", tmp_path, "--smoke", "--out", "out"
    done = run(*command, "--repeats", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    runs, whole = {role: ones[0] for role, ones in result["runs"]["smoke"].items()}, result["dense"]["smoke"]
    controls = ["scratch", "scratch, equal compute", "scratch, second rise", "random inputs"]
    assert list(runs) == ["dense", "self-pruned", *controls]
    assert whole["macs"] == runs["dense"]["macs"] == 64 * 300 + 300 * 100 + 100 * 10
    small = runs["self-pruned"]
    assert small["macs"] < 0.8 * whole["macs"] and small["work"] < 1 == runs["dense"]["work"]
    for role in controls:
        assert (runs[role]["macs"], runs[role]["params"]) == (small["macs"], small["params"])
        assert runs[role]["accuracy"] > 0.8  # chance is 0.1
    work = small["charged"] / (3 * 400 * 12 * whole["macs"])
    assert abs(runs["scratch, equal compute"]["work"] - work) < small["macs"] / (12 * whole["macs"])  # an epoch
    assert sum(result["breakdown"]["smoke"]["seconds"].values()) > small["seconds"] / 3
    more = run(*command, "--repeats", "2")
    assert more.returncode == 0 and "seed 1" in more.stdout, more.stderr
    after = json.loads((tmp_path / "out" / "result.json").read_text())
    assert all(ones[0] == runs[role] for role, ones in after["runs"]["smoke"].items())
    assert after["breakdown"] == result["breakdown"]
    other = run(*command, "--epochs", "3")
    assert other.returncode == 1 and "epochs was 12 and is 3" in other.stderr
