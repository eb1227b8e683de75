"""The modules of the benchmarks, and a small experiment."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bayesprune as bp

FOLDER = Path(__file__).parent.parent.parent / "examples" / "benchmarks"
MODULES = (
    *("comparison", "controls", "hesso", "peer", "pipelines", "running", "experiment", "report", "selection", "step"),
    *("timing", "breakdown", "cases", "clock", "defaults", "friedman", "plain", "roles", "run_tables"),
    *("tempering", "believe_inputs", "calibration"),
)


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's modules, which import each other by name as a script's neighbours do."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture(scope="module")
def splits() -> bp.data.Splits:
    return bp.data.load("digits", limit=96)


@pytest.fixture
def experiment(bench: Any) -> Any:
    return bench.experiment.Experiment(
        net="resnet8",
        width=4,
        units=False,
        epochs=3,
        batch_size=32,
        lr=0.05,
        weight_decay=1e-3,
        label_smoothing=0.1,
        every=2,
        reference="resnet8",
        budget="macs=0.4",
        price=None,
        device="cpu",
        precision="float32",
        compile=False,
        blocks=1,
    )
