"""What can be asked of the folder of a run: its gates, its score, its network in another format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.cli.record import CONFIG, read_config
from bayesprune.cli.run import CHECKPOINT, MODEL
from bayesprune.data import load, loaders
from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.pruning import cost, export_onnx, export_torch, save
from bayesprune.pruning import load as load_network
from bayesprune.reports import GateSummary, draw_probabilities, summarize
from bayesprune.training import evaluate
from bayesprune.training.checkpoint import read_checkpoint

BATCH = 512
"""Examples a batch when only scoring."""

FORMATS = ("onnx", "safetensors", "torch")


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


def score(folder: Path, data: str | None, data_dir: str | None) -> dict[str, Any]:
    """Score the compacted network of a run on a test split.

    Args:
        folder: Folder of the run.
        data: Data set; ``None`` for the one that the run was trained on.
        data_dir: Folder of data sets; ``None`` for the one that the run used.

    Returns:
        ``accuracy`` (0 to 1), ``nll`` (nats per example), ``params``, ``macs``, ``examples`` and ``data``.

    Raises:
        BayesPruneError: if run, network or data are not there or do not fit each other.
    """
    config, shape = read_config(folder)
    network = _network(folder)
    name = data or config.data
    # Pixels are normalised by the training examples, so a limit matters for the data set that it was set for.
    limit = config.limit if name == config.data else None
    splits = load(name, data_dir=data_dir or config.data_dir, limit=limit)
    if splits.input_shape != shape:
        raise ConfigError(
            f"--data {name}: its examples have shape {splits.input_shape}, but the network in {folder} was trained on "
            f"{shape}; give a data set of that shape"
        )
    example = splits.test[:1][0]
    with torch.no_grad():
        outputs = network(example).shape[1]
    if splits.num_classes > outputs:
        raise ConfigError(
            f"--data {name}: it has {splits.num_classes} classes, but the network in {folder} has {outputs} outputs"
        )
    result = evaluate(network, loaders(splits, BATCH, 0)[1])
    size = cost(network, example)
    return {
        "accuracy": result.accuracy,
        "nll": result.nll,
        "params": size.params,
        "macs": size.macs,
        "examples": len(splits.test),
        "data": name,
    }


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
