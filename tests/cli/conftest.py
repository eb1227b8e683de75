import shutil
from pathlib import Path

import pytest

from tests.cli.verify import TINY, verify_done


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    verify_done("train", *TINY, "--seed", "3", "--out", folder)
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a finished run, to do with as one likes."""
    return Path(shutil.copytree(finished_once, tmp_path / "run"))
