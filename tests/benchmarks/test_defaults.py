"""The command on its defaults, run for several seeds and held to what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.tables import cells

RESULT = {"accuracy": 0.982, "params": 90, "dense_params": 1000, "macs": 80, "dense_macs": 1000, "seed": 0}
RESULT |= {"gates_left": 50, "gates": 100, "gates_converged": 0.995, "seconds": 12.4}


def test_a_run_of_the_command_is_held_to_all_that_is_asked(bench: Any) -> None:
    case = bench.defaults.Case((), accuracy=0.981, params=0.1, converged=0.99)
    assert case.reached(RESULT)
    for worse in ({"accuracy": 0.98}, {"params": 101}, {"gates_converged": 0.98}):
        assert not case.reached(RESULT | worse)
    lines = cells(bench.defaults.results_table([RESULT, RESULT | {"seed": 1, "accuracy": 0.984, "params": 110}]))
    assert lines[2] == ["0", "98.20", "90 (9.00 %)", "8.00 %", "50 of 100", "99.50 %", "12"]
    assert lines[-1] == ["**mean**", "98.30", "10.00 %", "8.00 %", "50", "99.50 %", "12"]


def test_the_command_is_run_once_and_goes_on_where_it_was_broken_off(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def command(words: list[str], check: bool) -> None:
        asked.append(words[2:])
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        if len(asked) == 1:
            (folder / "checkpoint.pt").touch()
            raise KeyboardInterrupt
        bench.report.write_json(folder / "result.json", RESULT)

    monkeypatch.setattr(bench.defaults.subprocess, "run", command)
    with pytest.raises(KeyboardInterrupt):
        bench.defaults.trained(("--seed", "0"), tmp_path / "run")
    assert bench.defaults.trained(("--seed", "0"), tmp_path / "run") == RESULT
    assert bench.defaults.trained(("--seed", "0"), tmp_path / "run") == RESULT
    folder = str(tmp_path / "run")
    assert asked == [
        ["bayesprune", "train", "--seed", "0", "--out", folder],
        ["bayesprune", "train", "--resume", folder],
    ]
