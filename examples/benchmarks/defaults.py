"""What `bayesprune train` gives on its own defaults: the command itself, a run a seed.

    python examples/benchmarks/defaults.py --data-dir DIR --out OUT
    python examples/benchmarks/defaults.py lenet5 --seeds 0 1 2 --data-dir DIR --out OUT
    python examples/benchmarks/defaults.py digits --out OUT

A run that is done is not made again, and one that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from report import machine, table

HEADER = ["seed", "accuracy %", "parameters", "multiply-adds", "gates on", "converged", "seconds"]


@dataclass(frozen=True)
class Case:
    """One command and what is expected of each of its runs.

    Attributes:
        options: Of `bayesprune train`, but for the seed and folders.
        accuracy: At least.
        params: Share of the parameters, at most.
        converged: Share of the gates, at least.
    """

    options: tuple[str, ...]
    accuracy: float
    params: float = 1.0
    converged: float = 0.0

    def reached(self, result: dict[str, Any]) -> bool:
        """Whether a run with this result does what is expected."""
        share = result["params"] / result["dense_params"]
        good, certain = result["accuracy"] >= self.accuracy, result["gates_converged"] >= self.converged
        return good and certain and share <= self.params


def _mnist(net: str, epochs: int) -> tuple[str, ...]:
    return "--net", net, "--data", "mnist", "--epochs", str(epochs)


CASES = {
    "lenet300": Case(_mnist("lenet300", 40), accuracy=0.981, params=0.10, converged=0.99),
    "lenet5": Case(_mnist("lenet5", 20), accuracy=0.991, params=0.03, converged=0.99),
    "resmlp": Case(_mnist("resmlp", 20), accuracy=0.979, converged=1.0),
    "digits": Case((), accuracy=0.98),
}


def trained(options: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The result of a run, which is made, or finished, unless it was before.

    Args:
        options: Of the command.
        folder: Of the run.
    """
    if not (folder / "result.json").exists():
        command = [sys.executable, "-m", "bayesprune", "train"]
        if (folder / "checkpoint.pt").exists():
            subprocess.run([*command, "--resume", str(folder)], check=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # broken off before its first checkpoint
            subprocess.run([*command, *options, "--out", str(folder)], check=True)
    return json.loads((folder / "result.json").read_text())


def results_table(results: list[dict[str, Any]]) -> str:
    """One line a seed, and their means."""
    rows = []
    for one in results:
        row = [str(one["seed"]), f"{100 * one['accuracy']:.2f}"]
        row += [f"{one['params']} ({100 * one['params'] / one['dense_params']:.2f} %)"]
        row += [f"{100 * one['macs'] / one['dense_macs']:.2f} %", f"{one['gates_left']} of {one['gates']}"]
        rows.append([*row, f"{100 * one['gates_converged']:.2f} %", f"{one['seconds']:.0f}"])
    params, macs = (mean(one[name] / one[f"dense_{name}"] for one in results) for name in ("params", "macs"))
    accuracy, converged = (mean(one[name] for one in results) for name in ("accuracy", "gates_converged"))
    row = ["**mean**", f"{100 * accuracy:.2f}", f"{100 * params:.2f} %", f"{100 * macs:.2f} %"]
    row += [f"{mean(one['gates_left'] for one in results):.0f}", f"{100 * converged:.2f} %"]
    rows.append([*row, f"{mean(one['seconds'] for one in results):.0f}"])
    return table(HEADER, rows)


def main() -> None:
    """Run what the command line asks for, or go on with it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; lenet300 and digits by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(6)))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: unknown; known are {', '.join(CASES)}")
    print(machine(), flush=True)
    for name in options.cases or ["lenet300", "digits"]:
        case, results = CASES[name], []
        for seed in options.seeds:
            given = (*case.options, "--seed", str(seed), "--data-dir", options.data_dir)
            results.append(trained(given, options.out / f"{name}-seed{seed}"))
        print(f"\nbayesprune train {' '.join(case.options)}\n\n{results_table(results)}")
        print(f"\nas good as asked for: {sum(map(case.reached, results))} of {len(results)}")


if __name__ == "__main__":
    main()
