"""What can be asked of the folder of a run: its gates, its score, its network in another format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.cli.config import short_name
from bayesprune.cli.record import CONFIG, read_config
from bayesprune.cli.run import CHECKPOINT, MODEL, RELIABILITY
from bayesprune.cli.scoring import BATCH, class_probabilities, detection, diagram_title, figures
from bayesprune.data import load, loaders
from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.metrics import Calibration, calibration
from bayesprune.pruning import cost, export_onnx, export_torch, save
from bayesprune.pruning import load as load_network
from bayesprune.reports import GateSummary, draw_probabilities, draw_reliability, summarize
from bayesprune.training.checkpoint import read_checkpoint

FORMATS = ("onnx", "safetensors", "torch")


@dataclass(frozen=True)
class Scored:
    """What was measured of the network of a run.

    Attributes:
        record: What ``evaluate`` prints: ``accuracy`` (0 to 1), ``nll`` (nats per example), ``brier``, ``ece``,
            ``params``, ``macs``, ``examples`` and ``data``; ``against`` and ``auroc`` if other images were given.
        calibration: The figures with the bins of the reliability diagram.
        picture: File for that diagram: another one for every data set.
        title: What stands above it.
    """

    record: dict[str, Any]
    calibration: Calibration
    picture: Path
    title: str


def inspect_gates(folder: Path) -> tuple[list[GateSummary], int, Path]:
    """Read the gates from the last checkpoint of a run and draw them.

    Returns:
        One record for each gated module, the number of finished epochs, and the picture, ``inspect.png``.

    Raises:
        CheckpointError: if there is no checkpoint in ``folder`` or it is damaged.
    """
    state = read_checkpoint(folder / CHECKPOINT)
    thetas: dict[str, Tensor] = {name: path[-1] for name, path in state["history"]["thetas"].items()}
    picture = folder / "inspect.png"
    title = f"posterior gate probabilities after epoch {state['epoch']} of {state['epochs']}"
    draw_probabilities(thetas, picture, title=title, inputs=_input_gate(folder, thetas, state["network"]))
    return summarize(thetas, state["origin"]), state["epoch"], picture


def score(folder: Path, data: str | None, data_dir: str | None, against: str | None = None) -> Scored:
    """Score the compacted network of a run on a test split.

    Args:
        folder: Folder of the run.
        data: Data set; ``None`` for the one that the run was trained on.
        data_dir: Folder of data sets; ``None`` for the one that the run used.
        against: Data set, or ``noise``, whose images are to be told from those of the test split; ``None`` for none.

    Raises:
        BayesPruneError: if run, network or data are not there or do not fit each other.
    """
    config, shape = read_config(folder)
    network = _network(folder)
    name = data or config.data
    where = data_dir or config.data_dir
    # Pixels are normalised by the training examples, so a limit matters for the data set that it was set for.
    limit = config.limit if name == config.data else None
    splits = load(name, data_dir=where, limit=limit)
    if splits.input_shape != shape:
        raise ConfigError(
            f"--data {name}: its examples have shape {splits.input_shape}, but the network in {folder} was trained on "
            f"{shape}; give a data set of that shape"
        )
    probabilities, labels = class_probabilities(network, loaders(splits, BATCH, 0)[1])
    outputs = probabilities.shape[1]
    if splits.num_classes > outputs:
        raise ConfigError(
            f"--data {name}: it has {splits.num_classes} classes, but the network in {folder} has {outputs} outputs"
        )
    measured = calibration(probabilities, labels)
    size = cost(network, splits.test[:1][0])
    record = {
        **figures(measured),
        "params": size.params,
        "macs": size.macs,
        "examples": len(labels),
        "data": name,
        **({} if against is None else detection(network, probabilities, splits, against, where)),
    }
    picture = RELIABILITY if name == config.data else f"reliability-{short_name(name)}.png"
    return Scored(record, measured, folder / picture, diagram_title(config, name))


def draw_score(scored: Scored) -> None:
    """Draw the reliability diagram.

    Raises:
        ConfigError: if its file cannot be written.
    """
    try:
        draw_reliability(scored.calibration, scored.picture, title=scored.title)
    except OSError as error:
        raise ConfigError(
            f"cannot write the reliability diagram {scored.picture} ({error.strerror or error}); the figures above are "
            "whole; for the picture copy the run to a folder that can be written"
        ) from error


def export(folder: Path, form: str, out: Path) -> None:
    """Write the compacted network of a run in another format.

    Args:
        folder: Folder of the run.
        form: One of ``FORMATS``.
        out: File to write.

    Raises:
        BayesPruneError: for an unknown format, a file that exists or cannot be written, or a run without a network.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: unknown; known are {', '.join(FORMATS)}")
    if out.exists():
        raise ConfigError(f"--out {out} exists; choose another name, or delete it first")
    _, shape = read_config(folder)
    network = _network(folder)
    try:
        if form == "safetensors":
            save(network, out)
        else:
            write = export_torch if form == "torch" else export_onnx
            write(network, torch.zeros(2, *shape), out)
    except OSError as error:
        raise ConfigError(f"cannot write --out {out} ({error.strerror or error}); choose another") from error


def _network(folder: Path) -> nn.Module:
    path = folder / MODEL
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {MODEL}, which a run writes when it is finished; finish it with "
            f"'bayesprune train --resume {folder}'"
        )
    return load_network(path)


def _input_gate(
    folder: Path, thetas: dict[str, Tensor], parameters: dict[str, Any]
) -> tuple[str, tuple[int, ...]] | None:
    """Name of the gate on the pixels of images, and their shape; ``None`` without such a gate or a known shape."""
    if not (folder / CONFIG).is_file():
        return None
    _, shape = read_config(folder)
    first = next(iter(thetas))
    stands_alone = f"{first}.theta" in parameters
    return (first, shape) if stands_alone and len(shape) == 3 and len(thetas[first]) == math.prod(shape) else None
