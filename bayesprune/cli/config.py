"""What a run is made of, and its folder's record of it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bayesprune.atomic import write_atomically
from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.infer import get_estimator

CONFIG = "config.json"
MOVABLE = {"data_dir"}
"""Options that may change when a run is resumed: they say where something lies, not what is computed."""


@dataclass(frozen=True)
class RunConfig:
    """The options of `bayesprune train`, with defaults that serve.

    Attributes:
        net: Name of the network.
        data: Name of the data set.
        epochs: Length of the run.
        seed: Seed of everything random, ≥ 0.
        batch_size: Examples a step.
        lr: Peak learning rate of the weights.
        price: ν of `CostPrice`, nats per example: structures are priced at what they are expected to save.
        log_gamma: log γ of the flattening hyper-prior, nats for the whole data set: one price for all structures,
            instead of ``price``.
        label_smoothing: ε of the categorical likelihood.
        estimator: Name of the estimator of θ's gradient.
        slab: Kind of slab.
        device: Where to train.
        limit: Number of training examples to use; ``None`` for all.
        data_dir: Folder of torchvision's data sets.
    """

    net: str = "lenet300"
    data: str = "digits"
    epochs: int = 100
    seed: int = 0
    batch_size: int = 64
    lr: float = 2e-3
    price: float = 0.25
    log_gamma: float | None = None
    label_smoothing: float = 0.05
    estimator: str = "auto"
    slab: str = "point"
    device: str = "cpu"
    limit: int | None = None
    data_dir: str = "data"

    def check(self) -> None:
        """Refuse what can be seen to be wrong without reading data.

        Raises:
            ConfigError: for an option that cannot work.
        """
        if self.epochs < 1:
            raise ConfigError(f"--epochs must be at least 1, got {self.epochs}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, got {self.seed}")
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"--lr must be positive and finite, got {self.lr}")
        if not (math.isfinite(self.price) and self.price > 0):
            raise ConfigError(
                f"--price must be positive and finite, got {self.price}; it is in nats per example, and larger values "
                "prune more"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"--label-smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.log_gamma is not None and not (math.isfinite(self.log_gamma) and self.log_gamma > 0):
            raise ConfigError(
                f"--log-gamma must be positive and finite, got {self.log_gamma}; it is in nats for the whole data set, "
                "and larger values prune more"
            )
        get_estimator(self.estimator)
        if self.slab != "point":
            raise ConfigError(f"--slab {self.slab}: Gaussian slabs are not there yet; the only slab so far is 'point'")
        check_device(self.device)

    @property
    def default_folder(self) -> Path:
        """``runs/NET-DATA-seedS``, the data set's path reduced to its last part."""
        kind, _, path = self.data.partition(":")
        data = f"{kind}-{Path(path).name}" if path else kind
        return Path("runs") / f"{self.net}-{data}-seed{self.seed}"


def check_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        ConfigError: if there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: unknown; give cpu, cuda, cuda:NUMBER or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name}: expected cpu, cuda, cuda:NUMBER or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"--device {name}: this machine or this build of PyTorch has no Apple GPU; try --device cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"there are {count} (cuda:0 to cuda:{count - 1})" if count else "there is none"
            raise ConfigError(
                f"--device {name}: PyTorch sees no such CUDA device, {found}; try --device cpu, or a build of PyTorch "
                "for your driver"
            )
    return device


def versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on."""
    return {
        "bayesprune": version("bayesprune"),
        "torch": torch.__version__,
        "pyro": version("pyro-ppl"),
        "python": platform.python_version(),
    }


def write_config(folder: Path, config: RunConfig, input_shape: tuple[int, ...]) -> None:
    """Write ``config.json``: all options, the shape of one example and the versions."""
    record = {"options": asdict(config), "input_shape": list(input_shape), "versions": versions()}
    write_json(folder / CONFIG, record)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write ``record`` as JSON, atomically."""
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_config(folder: Path) -> tuple[RunConfig, tuple[int, ...]]:
    """Options of the run in ``folder`` and the shape of one of its examples.

    Raises:
        ConfigError: if ``folder`` is not that of a run.
        CheckpointError: if ``config.json`` is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{folder} is not the folder of a run: it has no {CONFIG}; give the folder that 'bayesprune train --out' "
            "made"
        )
    try:
        record = json.loads(path.read_text())
        options = record["options"]
        config = RunConfig(**{f.name: options[f.name] for f in fields(RunConfig)})
        shape = tuple(int(size) for size in record["input_shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged or of another version of bayesprune ({type(error).__name__}: {error}); start the run "
            "anew in another folder"
        ) from error
    return config, shape


def resumed(stored: RunConfig, asked: RunConfig, given: Collection[str], folder: Path) -> RunConfig:
    """The options to go on with, when ``given`` options of ``asked`` were set together with ``--resume``.

    Raises:
        ConfigError: if one of them contradicts the stored ones.
    """
    for field in fields(RunConfig):
        mine, theirs = getattr(asked, field.name), getattr(stored, field.name)
        if field.name in given and field.name not in MOVABLE and mine != theirs:
            option = "--" + field.name.replace("_", "-")
            raise ConfigError(
                f"{option} {mine} contradicts the run in {folder}, which has {option} {theirs}; leave the option out "
                "to resume, or start another run with another --out"
            )
    return replace(stored, **{name: getattr(asked, name) for name in MOVABLE if name in given})
