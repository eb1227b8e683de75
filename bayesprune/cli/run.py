"""One training run: from options to a folder with everything that came of it."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.atomic import write_atomically
from bayesprune.cli.config import CROP_FLIP, RunConfig
from bayesprune.cli.folder import MODEL, RELIABILITY, RESULT
from bayesprune.cli.network import read_weights
from bayesprune.cli.posterior import compact_posterior, new_net
from bayesprune.cli.record import versions, write_json
from bayesprune.cli.scoring import DRAWS, POSTERIOR, Predictor, draw_diagram, figures
from bayesprune.data import Augment, EpochLoader, Splits, loaders
from bayesprune.data.sources import named_data
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.metrics import Calibration
from bayesprune.optim import OPTIMIZERS
from bayesprune.pruning import CostPrice, compact, cost, gates_left, save, unsavable
from bayesprune.reports import draw_gates
from bayesprune.training import EpochRow, History, Settings, fit
from bayesprune.training.engine import Engine
from bayesprune.training.loggers import Logger
from bayesprune.types import Cost, Removal

ONE_THREAD = 1_000_000
"""Below so many multiply-adds a network trains on one thread: sharing small operations out costs more than it saves."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Attributes:
        config: Its options.
        engine: Where it computes.
        net: The network at its start.
        train_loader: Training batches.
        test_loader: Batches of the test split.
        example: One input, shape ``(1, C, H, W)``.
        dense: What the network costs at its start.
        gates: Number of gates at its start.
        branches: How many of them are on whole branches.
    """

    config: RunConfig
    engine: Engine
    net: BayesianNet
    train_loader: EpochLoader
    test_loader: torch.utils.data.DataLoader
    example: Tensor
    dense: Cost
    gates: int
    branches: int


def prepare(config: RunConfig, *, begun: bool = False) -> Run:
    """Read the data and build the network; writes nothing.

    Args:
        config: Options of the run.
        begun: Whether there is a checkpoint, so that the file of trained weights is needed no more.

    Raises:
        BayesPruneError: for options or data that cannot work.
    """
    config.check()
    engine = _engine(config)
    splits = named_data("--data", config.data, config.data_dir, config.limit)
    num_data = len(splits.train)
    decay = 1 / num_data if config.weight_decay is None else config.weight_decay
    weights = None if config.weights is None or begun else read_weights(config.weights, config.weights_sha256)
    digest = config.weights_sha256 if weights is None else weights.sha256
    config = replace(config, weight_decay=decay, weights_sha256=digest)
    train_loader, test_loader = loaders(
        splits,
        config.batch_size,
        config.seed,
        augment=_augment(config, splits),
        device=engine.device,
        shard=(engine.rank, engine.world_size),
    )
    torch.manual_seed(config.seed)
    net = new_net(config, splits.input_shape, _num_outputs(config, splits), num_data, weights)
    if config.freeze_weights:
        net.requires_grad_(False)
    unfit = unsavable(net)
    if unfit is not None:
        raise ConfigError(f"--net {config.net}: what it is pruned to could not be written to {MODEL}: {unfit}")
    example = splits.test[:1][0]
    dense = cost(net, example)
    return Run(config, engine, net, train_loader, test_loader, example, dense, net.num_gates, net.num_branches)


def perform(
    run: Run,
    folder: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
    identity: str | None = None,
    loggers: Iterable[Logger] = (),
) -> dict[str, Any] | None:
    """Train, from the checkpoint in ``folder`` if it holds one, and write what came of it to ``folder``.

    Args:
        run: The run.
        folder: An existing folder.
        on_epoch: Called with every finished epoch.
        identity: What tells the run from every other; all files hold it.
        loggers: What else is told of every epoch.

    Returns:
        The contents of ``result.json``, which is written last; ``None`` from all processes but the main one, which
        does all of the writing.

    Raises:
        BayesPruneError: as `fit`.
    """
    config = run.config
    with _few_threads(run):
        history = fit(
            run.net,
            run.train_loader,
            epochs=config.epochs,
            val_loader=run.test_loader,
            settings=_settings(config),
            engine=run.engine,
            out=folder,
            on_epoch=on_epoch,
            loggers=loggers,
            progress=False,  # the command shows its own
            run=identity,
        )
        if not run.engine.is_main:
            return None
        small = compact(run.net.eval())
        predictor = Predictor(small, compact_posterior(run.net) if config.slab == "normal" else None, DRAWS)
        measured = {prefix: said.calibration for prefix, said in predictor(run.test_loader).items()}
        result = {"run": identity, **_result(run, history, small, measured)}
    save(small, folder / MODEL, run=identity)
    _write_removals(folder / "removals.csv", history.removals)
    draw_gates(history.thetas, folder / "gates.png", title=f"{config.net} on {config.data}, seed {config.seed}")
    draw_diagram(measured, folder / RELIABILITY, config, config.data)
    write_json(folder / RESULT, result)
    return result


def _engine(config: RunConfig) -> Engine:
    """Where the run computes; Fabric does not report what it is doing."""
    logging.disable(logging.INFO)
    try:
        return Engine(config.device, precision=config.precision, compile=config.compile, strategy=config.strategy)
    finally:
        logging.disable(logging.NOTSET)


def _num_outputs(config: RunConfig, splits: Splits) -> int:
    """Number of outputs of the network, at least one for each class."""
    if config.num_classes is not None and config.num_classes < splits.num_classes:
        raise ConfigError(
            f"--num-classes {config.num_classes}: the data have {splits.num_classes} classes; give that, or more"
        )
    return config.num_classes or splits.num_classes


def _settings(config: RunConfig) -> Settings:
    return Settings(
        lr=config.lr,
        optimizer=OPTIMIZERS[config.optimizer],
        estimator=config.estimator,
        temperature=config.temperature,
        price=None if config.price is None else CostPrice(config.price),
        budget=config.parsed_budget(),
        every=config.every,
        layer_decay=config.layer_decay,
        freeze_statistics=config.freeze_statistics,
    )


def _augment(config: RunConfig, splits: Splits) -> Augment | None:
    """Crops out of a border as wide as an eighth of the images (4 pixels for 32 x 32), and flips."""
    return Augment(pad=min(splits.input_shape[1:]) // 8) if config.augment == CROP_FLIP else None


@contextmanager
def _few_threads(run: Run) -> Iterator[None]:
    """Let a small network compute on one thread within the context, unless the user says how many there are."""
    threads = torch.get_num_threads()
    on_cpu = run.engine.device.type == "cpu"
    if on_cpu and "OMP_NUM_THREADS" not in os.environ and (run.dense.macs or 0) < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _result(run: Run, history: History, small: nn.Module, measured: Mapping[str, Calibration]) -> dict[str, Any]:
    """Figures and cost of the compacted network ``small``, next to those of the network at the start."""
    config, theta, last = run.config, run.net.theta, history.rows[-1]
    size = cost(small, run.example)
    return {
        **figures(measured),
        **({"posterior_samples": DRAWS} if POSTERIOR in measured else {}),
        "reliability": _bins(measured.get(POSTERIOR, measured[""])),
        "dense_accuracy_not_measured": True,
        "params": size.params,
        "macs": size.macs,
        "dense_params": run.dense.params,
        "dense_macs": run.dense.macs,
        "gates": run.gates,
        "gates_left": gates_left(theta),
        "branches": run.branches,
        "branches_left": gates_left(theta[: run.net.num_branches]),
        "gates_converged": last.gates_converged,
        "budget": config.budget,
        "budget_met": _budget_met(run, size, last),
        "nu": None if math.isnan(last.nu) else last.nu,
        "seconds": sum(row.seconds for row in history.rows),
        "epoch_seconds_first": history.rows[0].seconds,
        "epoch_seconds_last": last.seconds,
        "epochs": config.epochs,
        "seed": config.seed,
        **run.engine.describe(),
        "device": config.device,
        "network": config.net,
        "data": config.data,
        "price": config.price,
        "log_gamma": config.log_gamma,
        "label_smoothing": config.label_smoothing,
        "slab": config.slab,
        "temperature": config.temperature,
        "versions": versions(),
    }


def _bins(found: Calibration) -> list[dict[str, float]]:
    """The bins of the reliability diagram that hold examples."""
    names = ("count", "confidence", "accuracy")
    return [{name: getattr(each, name) for name in names} for each in found.bins if each.count]


def _budget_met(run: Run, size: Cost, last: EpochRow) -> bool | None:
    """Whether a network of this size keeps to the budget, for seconds as they were measured last; without one, None."""
    budget = run.config.parsed_budget()
    if budget is None:
        return None
    if budget.measure == "latency":
        return last.expected <= budget.fraction
    return getattr(size, budget.measure) <= budget.fraction * getattr(run.dense, budget.measure)


def _write_removals(path: Path, removals: list[Removal]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Removal)])
    writer.writeheader()
    writer.writerows(removal.as_dict() for removal in removals)
    write_atomically(path, text.getvalue().encode())
