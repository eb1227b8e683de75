"""One training run: from options to a folder with everything that came of it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.atomic import write_atomically
from bayesprune.cli.config import RunConfig, check_device, versions, write_json
from bayesprune.data import EpochLoader, load, loaders
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BayesianNet, Categorical
from bayesprune.networks import build
from bayesprune.pruning import CostPrice, compact, cost, save
from bayesprune.reports import draw_gates
from bayesprune.training import EpochRow, History, Settings, evaluate, fit
from bayesprune.types import Cost, Removal

CHECKPOINT = "checkpoint.pt"
MODEL = "model.safetensors"
RESULT = "result.json"
ONE_THREAD = 1_000_000
"""Below so many multiply-adds a network trains on one thread: sharing small operations out costs more than it saves."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Attributes:
        config: Its options.
        net: The network at its start.
        train_loader: Training batches.
        test_loader: Batches of the test split.
        example: One input, shape ``(1, C, H, W)``, where the network is.
        dense: What the network costs at its start.
        gates: Number of gates at its start.
    """

    config: RunConfig
    net: BayesianNet
    train_loader: EpochLoader
    test_loader: torch.utils.data.DataLoader
    example: Tensor
    dense: Cost
    gates: int


def prepare(config: RunConfig) -> Run:
    """Read the data and build the network; writes nothing.

    Raises:
        BayesPruneError: for options or data that cannot work.
    """
    config.check()
    device = check_device(config.device)
    splits = load(config.data, data_dir=config.data_dir, limit=config.limit)
    train_loader, test_loader = loaders(splits, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    network = build(config.net, splits.input_shape, splits.num_classes).to(device)
    likelihood = Categorical(config.label_smoothing)
    prior = None if config.log_gamma is None else FlatteningPrior(config.log_gamma)
    net = BayesianNet(network, likelihood, num_data=len(splits.train), prior=prior)
    example = splits.test[:1][0].to(device)
    dense = cost(net, example)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ and (dense.macs or 0) < ONE_THREAD:
        torch.set_num_threads(1)
    return Run(config, net, train_loader, test_loader, example, dense, net.num_gates)


def perform(run: Run, folder: Path, on_epoch: Callable[[EpochRow], None]) -> dict[str, Any]:
    """Train, from the checkpoint in ``folder`` if it holds one, and write what came of it to ``folder``.

    Args:
        run: The run.
        folder: An existing folder.
        on_epoch: Called with every finished epoch.

    Returns:
        The contents of ``result.json``, which is written last.

    Raises:
        BayesPruneError: as `fit`.
    """
    config = run.config
    history = fit(
        run.net,
        run.train_loader,
        epochs=config.epochs,
        val_loader=run.test_loader,
        settings=Settings(
            lr=config.lr,
            estimator=config.estimator,
            price=CostPrice(config.price) if config.log_gamma is None else None,
        ),
        out=folder,
        on_epoch=on_epoch,
    )
    small = compact(run.net.eval())
    result = _result(run, history, small)
    save(small, folder / MODEL)
    _write_removals(folder / "removals.csv", history.removals)
    draw_gates(history.thetas, folder / "gates.png", title=f"{config.net} on {config.data}, seed {config.seed}")
    write_json(folder / RESULT, result)
    return result


def _result(run: Run, history: History, small: nn.Module) -> dict[str, Any]:
    """Score and cost of the compacted network ``small``, next to those of the network at the start."""
    config = run.config
    score = evaluate(small, run.test_loader)
    size = cost(small, run.example)
    return {
        "accuracy": score.accuracy,
        "nll": score.nll,
        "dense_accuracy_not_measured": True,
        "params": size.params,
        "macs": size.macs,
        "dense_params": run.dense.params,
        "dense_macs": run.dense.macs,
        "gates": run.gates,
        "gates_left": int((run.net.theta > 0.5).sum()),
        "gates_converged": history.rows[-1].gates_converged,
        "seconds": sum(row.seconds for row in history.rows),
        "epochs": config.epochs,
        "seed": config.seed,
        "device": config.device,
        "network": config.net,
        "data": config.data,
        "price": config.price if config.log_gamma is None else None,
        "log_gamma": config.log_gamma,
        "label_smoothing": config.label_smoothing,
        "versions": versions(),
    }


def _write_removals(path: Path, removals: list[Removal]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Removal)])
    writer.writeheader()
    writer.writerows(removal.as_dict() for removal in removals)
    write_atomically(path, text.getvalue().encode())
