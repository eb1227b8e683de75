"""Whole runs: a network that prunes itself against dense training, and against what it leaves from fresh weights.

    python examples/benchmarks/run.py --data-dir DIR --out OUT
    python examples/benchmarks/run.py digits lenet300-20k --repeats 3 --validate --data-dir DIR --out OUT
    python examples/benchmarks/run.py resnet20 --data imagefolder:PATH --out OUT
    python examples/benchmarks/run.py lenet5-bypass vgg16 --data-dir DIR --out OUT
    python examples/benchmarks/run.py mobilenet --data imagefolder:PATH --only dense,self-pruned --repeats 1 --out OUT
    python examples/benchmarks/run.py --smoke --out OUT

For each network, in turn in one process and one thread, with the batch size, learning rate, weight decay and smoothing
of labels that are recommended for it: *dense*, without gates in a plain PyTorch loop; *self-pruned*, by `fit` with
nothing but its defaults, unless the case has a budget or phases of its own; *scratch*, the network that this left,
from fresh weights, for as many epochs; *scratch, equal compute*, for as many epochs as the multiply-adds allow that the
self-pruned run was charged; *scratch, second rise*, by the learning rates of the self-pruned run; *random inputs*,
where inputs have gates, a network of the same widths with inputs chosen at random. Times are processor times, ratios
those of runs of one seed. Where the self-pruned run's time goes is counted in a run of its own. ``--only`` names the
runs that are wanted.

Every run leaves a file in OUT when it is done and is not made again; OUT/result.json holds all that is printed.
``--validate`` scores training images that are held out instead of the test images. Five repeats of all cases but
those that have to be named (``ON_DEMAND``) take about an hour of one core, half of it ``lenet300``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from breakdown import Breakdown, breakdown
from cases import CASES, ON_DEMAND, Case, Setting, prepare, shorter
from report import facts, machine, same_as_before, write_json
from roles import Run, dense, outcome, roles_of, self_pruned
from run_tables import Found, breakdown_table, phases_table, runs_table, short_table


def main() -> None:
    """Run what the command line asks for, or go on with it, and report."""
    options = _options()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(machine(), flush=True)
    _warm_up()
    runs: dict[str, tuple[Setting, Found]] = {}
    parts: dict[str, tuple[Setting, Breakdown]] = {}
    for name in options.cases:
        setting = _setting(options, name)
        folder, roles = options.out / name, options.only or roles_of(setting)
        runs[name] = setting, _outcomes(setting, folder, roles, range(options.repeats))
        if not options.only:
            parts[name] = setting, _breakdown(Run(setting, 0, folder / "breakdown"), folder / "breakdown.json")
        write_json(options.out / "result.json", _content(options, runs, parts))
    scored = "held-out training" if options.validate else "test"
    print(f"\nWhole runs, {options.repeats} a line, scored on {scored} images\n\n{runs_table(runs)}")
    print(f"\nAccuracy, and time over that of dense training\n\n{short_table(runs)}")
    if not parts:
        return
    print(f"\nWhere the time of a self-pruned run goes\n\n{breakdown_table(parts)}")
    phases = {name: (setting, one, runs[name][1]) for name, (setting, one) in parts.items()}
    print(f"\nAn epoch of it, by the phase that it ends in\n\n{phases_table(phases)}")


def _warm_up() -> None:
    """Let everything that is made at its first use be made before times are taken."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(prepare(replace(SMOKE_CASE, epochs=4), "", validate=False), 0, Path(folder))
        dense(run)
        self_pruned(run)


def _setting(options: argparse.Namespace, name: str) -> Setting:
    """The case of that name, refused where OUT holds runs of it that were made in another way."""
    case = shorter(CASES[name], options.epochs, options.data if CASES[name].data == "cifar10" else None)
    setting = prepare(case, options.data_dir, options.validate)
    how = asdict(case) | {"validate": options.validate, "recipe": asdict(setting.recipe)}
    same_as_before(options.out / name / "case.json", how)
    return setting


def _outcomes(setting: Setting, folder: Path, roles: Sequence[str], seeds: Iterable[int]) -> Found:
    """Every run of a case, those of one seed in turn.

    Args:
        setting: The case.
        folder: Where its runs are.
        roles: Those that are run.
        seeds: Their seeds.
    """
    found: Found = {role: [] for role in roles}
    for seed in seeds:
        for role, ones in found.items():
            one = outcome(Run(setting, seed, folder / f"seed{seed}"), role)
            ones.append(one)
            size = f"{one.params} parameters, {one.macs} multiply-adds"
            found_ = f"{100 * one.accuracy:.2f} %, {size}, {one.seconds:.1f} s"
            print(f"{setting.case.title}, {role}, seed {seed}: {found_}", flush=True)
    return found


def _breakdown(run: Run, path: Path) -> Breakdown:
    """Where the time of a self-pruned run goes, counted once."""
    if not path.exists():
        run.folder.mkdir(exist_ok=True)
        write_json(path, asdict(breakdown(lambda: self_pruned(run))))
    return Breakdown(**json.loads(path.read_text()))


def _content(
    options: argparse.Namespace,
    runs: dict[str, tuple[Setting, Found]],
    parts: dict[str, tuple[Setting, Breakdown]],
) -> dict:
    """All that is done so far."""
    return {
        "machine": facts(),
        "options": {key: str(value) for key, value in vars(options).items()},
        "dense": {name: asdict(setting.whole) for name, (setting, _) in runs.items()},
        "runs": {
            name: {role: [asdict(one) for one in ones] for role, ones in found.items()}
            for name, (_, found) in runs.items()
        },
        "breakdown": {name: asdict(one) for name, (_, one) in parts.items()},
    }


SMOKE_CASE = Case("LeNet-300-100, 400 digits", "lenet300", "digits", 12, 400, inputs=True)
"""Seconds of one core; the figures mean little."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = [name for name in CASES if name not in ON_DEMAND]
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all but {', '.join(ON_DEMAND)} by default")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind, with seeds from 0")
    parser.add_argument("--epochs", type=int, help="instead of the case's")
    parser.add_argument("--data-dir", default="data", help="folder of torchvision's data sets")
    parser.add_argument("--data", help="imagefolder:PATH instead of cifar10")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help="of dense,self-pruned,scratch; all by default"
    )
    parser.add_argument("--validate", action="store_true", help="score training images that are held out")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished runs and result.json")
    parser.add_argument("--smoke", action="store_true", help="a small case of digits, to see that all of it runs")
    options = parser.parse_args()
    if options.smoke:
        CASES["smoke"] = SMOKE_CASE
        options.cases, options.repeats = ["smoke"], min(options.repeats, 2)
    options.cases = options.cases or usual
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: unknown; known are {', '.join(CASES)}")
    return options


if __name__ == "__main__":
    main()
