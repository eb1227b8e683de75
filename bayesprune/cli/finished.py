"""What can be asked of the folder of a run: its gates, its score, its network in another format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.atomic import file_errors
from bayesprune.checked import whole
from bayesprune.cli.config import MOST, RunConfig, short_name
from bayesprune.cli.folder import CHECKPOINT, MODEL, RELIABILITY
from bayesprune.cli.posterior import read_posterior, read_rounded
from bayesprune.cli.record import CONFIG, check_run, read_config
from bayesprune.cli.scoring import (
    BATCH,
    DRAWS,
    Predictor,
    detection,
    draw_diagram,
    figures,
    other_images,
)
from bayesprune.data import Splits, loaders
from bayesprune.data.sources import named_data
from bayesprune.errors import CheckpointError, ConfigError, FileError
from bayesprune.metrics import Calibration
from bayesprune.pruning import cost, export_onnx, export_torch, read_run, save
from bayesprune.pruning import load as load_network
from bayesprune.pruning.meter import eval_mode
from bayesprune.reports import GateSummary, draw_probabilities, summarize
from bayesprune.training.state import Checkpoint

FORMATS = ("onnx", "safetensors", "torch")


@dataclass(frozen=True)
class Scored:
    """What was measured of a run.

    Attributes:
        config: Options of the run.
        record: What ``evaluate`` prints: ``accuracy`` (0 to 1), ``nll`` (nats per example), ``brier`` and ``ece`` of
            the compacted network; with ``posterior_`` before them those of the posterior predictive, and
            ``posterior_samples``, if there are Normal weights; ``params``, ``macs``, ``examples`` and ``data``; if
            other images were given ``against`` and ``auroc``, and ``posterior_auroc`` and
            ``posterior_auroc_information``.
        measured: The figures with the bins of the reliability diagram, by what their keys begin with.
        picture: File for that diagram: another one for every data set.
    """

    config: RunConfig
    record: dict[str, Any]
    measured: dict[str, Calibration]
    picture: Path


@dataclass(frozen=True)
class Inspected:
    """The gates of a run, finished or not.

    Attributes:
        epoch: Number of finished epochs.
        epochs: Length of the run.
        thetas: By name of the gated module, θ of all starting gates, shape ``(S,)``, 0 where removed.
        summaries: One record for each gated module.
        inputs: Name of the gate on the pixels of images, and their shape, if there is one.
        picture: File for the picture, ``inspect.png``.
    """

    epoch: int
    epochs: int
    thetas: dict[str, Tensor]
    summaries: list[GateSummary]
    inputs: tuple[str, tuple[int, ...]] | None
    picture: Path

    @property
    def record(self) -> dict[str, Any]:
        """What ``inspect --json`` prints: ``epoch``, ``epochs`` and the ``gates``; null where no gate is left."""
        rows = [
            {name: None if value != value else value for name, value in vars(row).items()} for row in self.summaries
        ]
        return {"epoch": self.epoch, "epochs": self.epochs, "gates": rows}


def inspect_gates(folder: Path) -> Inspected:
    """Read the gates from the last checkpoint of a run.

    Raises:
        CheckpointError: if there is no checkpoint in ``folder``, or one that is damaged or of another run.
    """
    path = folder / CHECKPOINT
    state = Checkpoint.read(path)
    shape = None
    if (folder / CONFIG).is_file():
        _, shape, run = read_config(folder)
        check_run(path, state.run, run)
    thetas: dict[str, Tensor] = {name: theta[-1] for name, theta in state.history["thetas"].items()}
    inputs = input_gate(shape, thetas, state.network)
    summaries = summarize(thetas, state.origin)
    return Inspected(state.epoch, state.epochs, thetas, summaries, inputs, folder / "inspect.png")


def draw_inspected(found: Inspected) -> None:
    """Draw the gates.

    Raises:
        FileError: if the picture cannot be written.
    """
    title = f"posterior gate probabilities after epoch {found.epoch} of {found.epochs}"
    with _picture():
        draw_probabilities(found.thetas, found.picture, title=title, inputs=found.inputs)


def score(
    folder: Path,
    data: str | None = None,
    data_dir: str | None = None,
    against: str | None = None,
    num_samples: int | None = None,
    run_code: bool = False,
) -> Scored:
    """Score what a run arrived at on a test split.

    Args:
        folder: Folder of the run.
        data: Data set; ``None`` for the one that the run was trained on.
        data_dir: Folder of data sets; ``None`` for the one that the run used.
        against: Data set, or ``noise``, whose images are to be told from those of the test split; ``None`` for none.
        num_samples: How many networks to draw from the posterior of Normal weights; ``None`` for `DRAWS`.
        run_code: Whether the code of a network of one's own may run, which a posterior takes.

    Raises:
        BayesPruneError: if run, network or data are not there or do not fit each other.
    """
    config, shape, run = read_config(folder)
    _check_samples(num_samples, config)
    network = _network(folder, run)
    name, where = data or config.data, data_dir or config.data_dir
    # Pixels are normalised by the training examples, so a limit matters for the data set that it was set for.
    splits = named_data("--data", name, where, config.limit if name == config.data else None)
    outputs = _check_fit(network, splits, shape, folder)
    posterior = read_posterior(folder, outputs, run_code) if config.slab == "normal" else None
    predictor = Predictor(network, posterior, num_samples or DRAWS)
    said = predictor(loaders(splits, BATCH, 0)[1])
    measured = {prefix: predictions.calibration for prefix, predictions in said.items()}
    size = cost(network, splits.test[:1][0])
    record = {
        **figures(measured),
        **({} if posterior is None else {"posterior_samples": predictor.num_samples}),
        "params": size.params,
        "macs": size.macs,
        "examples": len(splits.test),
        "data": name,
    }
    if against is not None:
        others = predictor(other_images(against, splits, where))
        aurocs = {prefix: detection(own, others[prefix]) for prefix, own in said.items()}
        record["against"] = against
        record |= {prefix + key: value for prefix, found in aurocs.items() for key, value in found.items()}
    picture = RELIABILITY if name == config.data else f"reliability-{short_name(name)}.png"
    return Scored(config, record, measured, folder / picture)


def _check_samples(num_samples: int | None, config: RunConfig) -> None:
    if num_samples is None:
        return
    if config.slab != "normal":
        raise ConfigError(
            f"--num-samples {num_samples}: the weights of this run have no posterior to draw from (--slab "
            f"{config.slab}); leave the option out, or train with --slab normal"
        )
    whole("--num-samples", num_samples, hint=f"{DRAWS} are usual")


def _check_fit(network: nn.Module, splits: Splits, shape: tuple[int, ...], folder: Path) -> int:
    """Refuse data that do not fit a network; returns the number of its outputs."""
    if splits.input_shape != shape:
        raise ConfigError(
            f"--data {splits.name}: its examples have shape {splits.input_shape}, but the network in {folder} was "
            f"trained on {shape}; give a data set of that shape"
        )
    outputs = _num_outputs(network, splits.test[:1][0], folder)
    if splits.num_classes > outputs:
        raise ConfigError(
            f"--data {splits.name}: it has {splits.num_classes} classes, but the network in {folder} has {outputs} "
            "outputs"
        )
    return outputs


def _num_outputs(network: nn.Module, x: Tensor, folder: Path) -> int:
    """Number of outputs of the network that ``folder`` holds; refused if it gives no logits for inputs of its run."""
    said = f"what it gives for inputs of shape {tuple(x.shape)} are no logits"
    try:
        with eval_mode(network):
            outputs = network.forward(x)  # not called: torch.fx would print a report of its own to stderr
        if outputs.is_floating_point() and outputs.dim() == 2 and len(outputs) == len(x):
            return outputs.shape[1]
    except Exception as error:  # a file from elsewhere may describe any network
        said = f"it cannot be applied to inputs of shape {tuple(x.shape)}: {error}"
    raise CheckpointError(f"{folder / MODEL} is no network of this run: {said}. Bring back the file that the run wrote")


def draw_score(scored: Scored) -> None:
    """Draw the reliability diagram.

    Raises:
        FileError: if its file cannot be written.
    """
    with _picture():
        draw_diagram(scored.measured, scored.picture, scored.config, scored.record["data"])


@contextmanager
def _picture() -> Iterator[None]:
    """Say what is not lost where a picture cannot be written."""
    try:
        yield
    except FileError as error:
        raise FileError(
            f"no picture: {error}; the figures above are whole; for the picture copy the run to a folder that can be "
            "written"
        ) from error


def export(folder: Path, form: str, out: Path, round_to: int, run_code: bool = False) -> None:
    """Write the compacted network of a run in another format.

    Args:
        folder: Folder of the run.
        form: One of ``FORMATS``.
        out: File to write.
        round_to: Of what widths are to be multiples.
        run_code: Whether the code of a network of one's own may run, which other widths take.

    Raises:
        BayesPruneError: for an unknown format, a file that exists or cannot be written, or a run without a network.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: unknown; known are {', '.join(FORMATS)}")
    whole("--round-to", round_to, 1, MOST)
    with file_errors("write", out):
        if out.exists():
            raise ConfigError(f"--out {out} exists; choose another name, or delete it first")
    _, shape, run = read_config(folder)
    network = _network(folder, run)
    example = torch.zeros(2, *shape)
    outputs = _num_outputs(network, example, folder)
    if round_to > 1:
        network = read_rounded(folder, outputs, round_to, run_code)
    with file_errors("write", out):
        if form == "safetensors":
            save(network, out)
        else:
            write = export_torch if form == "torch" else export_onnx
            write(network, example, out)


def _network(folder: Path, run: str | None) -> nn.Module:
    path = folder / MODEL
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {MODEL}, which a run writes when it is finished; finish it with "
            f"'bayesprune train --resume {folder}'"
        )
    check_run(path, read_run(path), run)
    return load_network(path)


def input_gate(
    shape: tuple[int, ...] | None, thetas: dict[str, Tensor], parameters: dict[str, Any]
) -> tuple[str, tuple[int, ...]] | None:
    """Name of the gate on the pixels of images, and their shape; ``None`` without such a gate or a known shape.

    Args:
        shape: That of one example.
        thetas: By gate name, θ.
        parameters: Those of the network at its start, by name.
    """
    first = next(iter(thetas), None)
    if shape is None or first is None:
        return None
    stands_alone = f"{first}.theta" in parameters
    return (first, shape) if stands_alone and len(shape) == 3 and len(thetas[first]) == math.prod(shape) else None
