"""A release is what the repository says: one version in all places, and distributions that install and train."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import bayesprune

ROOT = Path(__file__).parent.parent


def test_one_version_in_all_places() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited and newest and {cited[1], newest[1]} == {bayesprune.__version__}


@pytest.mark.slow
def test_a_wheel_and_a_source_distribution_install_and_train(tmp_path: Path) -> None:
    """In environments that see the packages of this one, so that bayesprune alone is installed."""
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT)
    built = sorted((tmp_path / "dist").iterdir())
    assert [file.name for file in built] == [
        f"bayesprune-{bayesprune.__version__}-py3-none-any.whl",
        f"bayesprune-{bayesprune.__version__}.tar.gz",
    ]
    for place, file in zip((tmp_path / "wheel", tmp_path / "source"), built, strict=True):
        call(sys.executable, "-m", "venv", place)
        programs = place / ("Scripts" if os.name == "nt" else "bin")
        call(programs / "python", "-m", "pip", "install", "--no-deps", file)
        site = Path(call(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (site / "others.pth").write_text(sysconfig.get_path("purelib"))  # looked at after its own packages
        where = call(programs / "python", "-c", "import bayesprune; print(bayesprune.__file__)")
        assert Path(where.strip()).is_relative_to(place)
        out = tmp_path / f"run-{place.name}"
        call(programs / "bayesprune", "train", "--epochs", "2", "--out", out)
        assert (
            "converged" in call(programs / "bayesprune", "inspect", out)
            and (out / "model.safetensors").stat().st_size > 0
        )
