"""Dense training, training with pruning, its peers and its controls, side by side on one device.

    python examples/benchmarks/cifar.py --data cifar10 --data-dir DIR --device cuda --out OUT
    python examples/benchmarks/cifar.py --net vgg16 --data imagefolder:PATH --budget macs=0.4 --device cuda --out OUT
    python examples/benchmarks/cifar.py --net resnet20 --depths 20,32,44,56 --seeds 0,1,2 --price 0.1 --out OUT ...
    python examples/benchmarks/cifar.py --smoke --out OUT

Pipelines in one process, on the same batches and with the same optimiser and schedule: *dense*, the network without
gates in a plain PyTorch loop; *gated*, the network that prunes itself, by `bayesprune.fit`. Others go down to the
multiply-adds that the gated one ended with: *peer*, the dense network pruned by Torch-Pruning and fine-tuned for half
as many epochs; *hesso*, pruned while it trains by Only-Train-Once. And plain controls: *scratch*, what the gated one
ended with, from fresh weights; *scratch-equal*, the same for as many multiply-adds as the gated one took to train;
*scratch-rise*, scratch by the gated one's learning rates, which rise a second time; *narrower* and *shallower*, the
nearest of the dense network's family that take no more. With ``--depths`` only the gated pipeline runs, from networks
of several depths: do they end alike?

Every epoch leaves a checkpoint in OUT. With ``--minutes`` the script stops after an epoch when the time is up, with
exit status 75; the same command then goes on. OUT/result.json holds all that is printed, and more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import hesso
import peer
import torch
from comparison import comparisons, depths_table, pipelines_table
from experiment import Deadline, Experiment, OutOfTime, TooSmall
from pipelines import PIPELINES
from report import facts, machine, same_as_before, write_json
from running import Row, Run
from timing import Pair, step_at_the_start

import bayesprune as bp
from bayesprune.comparison.material import reduced

NOT_DONE = 75
"""Exit status when the time was up."""


def main() -> None:
    """Run what the command line asks for, or go on with it, and report."""
    options = _options()
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    deadline = Deadline(options.minutes, time.perf_counter())
    experiment = _experiment(options)
    print(machine(), flush=True)
    splits = bp.data.load(options.data, data_dir=options.data_dir, limit=options.limit)
    splits = splits if options.side is None else reduced(splits, options.side)
    rows: list[Row] = []
    step = None
    try:
        for run, name in _runs(options, experiment, splits, deadline):
            try:
                rows.append(_row(run, name))
            except TooSmall as reason:
                print(reason, flush=True)
                continue
            if name == "gated" and step is None and not options.depths:
                step = _step(run)
            _report(options, rows, step)
    except OutOfTime:
        print(f"{options.minutes:g} minutes are up; the same command goes on from here", flush=True)
        sys.exit(NOT_DONE)
    print(depths_table(rows) if options.depths else pipelines_table(rows))
    if step is not None:
        times = f"{step.ms:.2f} against {step.reference_ms:.2f} ms"
        print(f"a step of the gated network at the start takes {step.ratio:.2f} times a plain one, {times}")


def _runs(
    options: argparse.Namespace, experiment: Experiment, splits: bp.data.Splits, deadline: Deadline
) -> Iterator[tuple[Run, str]]:
    """Every run and the pipeline that it goes through."""
    nets = [f"{experiment.net.rstrip('0123456789')}{depth}" for depth in options.depths] or [experiment.net]
    for other in (peer, hesso):
        if other.__name__ in options.only and not other.available():
            print(other.MISSING, flush=True)
            options.only.remove(other.__name__)
    for net in nets:
        for seed in options.seeds:
            run = Run(replace(experiment, net=net), splits, seed, options.out / f"{net}-seed{seed}", deadline)
            data = {"data": options.data, "limit": options.limit, "side": options.side}
            same_as_before(run.folder / "recipe.json", asdict(run.experiment) | data)
            for name in options.only:
                yield run, name


def _row(run: Run, name: str) -> Row:
    """The row of a pipeline, which is gone through unless that was done before."""
    path = run.folder / name / "row.json"
    if not path.exists():
        run.deadline.check()
        PIPELINES[name](run)
    return Row.read(path)


def _step(run: Run) -> Pair:
    """How a step at the start compares, measured once."""
    path = run.folder / "step.json"
    if not path.exists():
        write_json(path, asdict(step_at_the_start(run.experiment, run.splits)))
    return Pair(**json.loads(path.read_text()))


def _report(options: argparse.Namespace, rows: list[Row], step: Pair | None) -> None:
    """Write OUT/result.json: all that is done so far."""
    content = {
        "machine": facts(),
        "options": {key: str(value) for key, value in vars(options).items()},
        "rows": [asdict(row) | {"first_seconds": row.first_seconds, "last_seconds": row.last_seconds} for row in rows],
        "comparisons": [] if options.depths else comparisons(rows),
        "step at the start": None if step is None else asdict(step),
    }
    write_json(options.out / "result.json", content)


def _experiment(options: argparse.Namespace) -> Experiment:
    cuda = torch.device(options.device).type == "cuda"
    return Experiment(
        net=options.net,
        width=options.width,
        units=options.units,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        every=options.every,
        reference=options.net,
        budget=options.budget,
        price=options.price,
        device=options.device,
        precision=options.precision or ("bf16" if cuda else "float32"),
        compile=options.compile,
        blocks=options.blocks,
    )


def _integers(text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    """``dense,gated`` as names of pipelines, in the order in which they need each other."""
    return sorted(text.split(","), key=list(PIPELINES).index)


SMOKE = {"net": "resnet20", "width": 4, "data": "digits", "epochs": 8, "batch_size": 32, "lr": 0.08, "blocks": 2}
SMOKE |= {"device": "cpu", "every": 4}
"""Minutes of a GPU become seconds of one core; the figures mean nothing."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet56", help="resnet20, resnet56, resnet110, ..., or vgg16")
    parser.add_argument("--width", type=int, help="channels of the first stage instead of the network's own")
    parser.add_argument("--units", action="store_true", help="gate also the channels within branches")
    parser.add_argument("--data", default="cifar10", help="cifar10, cifar100 or imagefolder:PATH")
    parser.add_argument("--data-dir", default="data", help="folder of torchvision's data sets")
    parser.add_argument("--limit", type=int, help="number of training images, instead of all")
    parser.add_argument("--side", type=int, help="average the pixels of images to so many a side, for a CPU")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="peak learning rate; give it with the batch size")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--every", type=int, default=16, help="steps of the weights for one of the gates")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--budget", default="macs=0.4", help="what is to be left of --net")
    goal.add_argument("--price", type=float, help="nu of CostPrice instead of a budget, relative to --net")
    parser.add_argument("--seeds", type=_integers, default=[0])
    parser.add_argument("--only", type=_names, help=f"pipelines, of {','.join(PIPELINES)}; all of them by default")
    parser.add_argument("--depths", type=_integers, default=[], help="depths to start from, gated pipeline alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bf16"], help="bf16 on CUDA by default, float32 elsewhere")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--blocks", type=int, default=15, help="how often steps and passes are timed in turn")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after an epoch when they are up")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and result.json")
    parser.add_argument("--smoke", action="store_true", help="a tiny network on digits, to see that all of it runs")
    options = parser.parse_args()
    if options.smoke:
        parser.set_defaults(**SMOKE)
        options = parser.parse_args()
    if options.depths and options.budget.startswith("latency"):
        parser.error("--depths: a latency is measured anew for each depth and cannot be relative to --net; give macs")
    options.only = options.only or (["gated"] if options.depths else list(PIPELINES))
    return options


if __name__ == "__main__":
    main()
