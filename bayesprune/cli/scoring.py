"""What a network says of a test split, how far that can be believed, and whether it is less sure of other images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprune.cli.config import RunConfig, short_name
from bayesprune.data import Images, Splits, loaders
from bayesprune.data.images import Raw
from bayesprune.data.sources import named_data
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet, ClassPrediction, RandomState
from bayesprune.metrics import Calibration, auroc, calibration, entropy
from bayesprune.reports import draw_reliability
from bayesprune.training.metrics import class_probabilities

BATCH = 512
"""Examples a batch when only scoring."""

DRAWS = 32
"""Networks drawn from the posterior where the command line does not say."""

POSTERIOR = "posterior_"
"""What the keys of figures of the posterior predictive begin with."""

NOISE = "noise"
"""Images whose pixels are all random and independent, by the name that ``--against`` has for them."""

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Predictions:
    """What a network, or a posterior, says of examples; all tensors are on the CPU.

    Attributes:
        probabilities: Of the classes, shape ``(N, C)``, float64.
        labels: What the classes are, shape ``(N,)``.
        information: Mutual information of label and network, nats, shape ``(N,)``; ``None`` where there is one network.
    """

    probabilities: Tensor
    labels: Tensor
    information: Tensor | None = None

    @property
    def calibration(self) -> Calibration:
        """How far they can be believed."""
        return calibration(self.probabilities, self.labels)

    @property
    def doubts(self) -> dict[str, Tensor]:
        """How unsure each example is, shape ``(N,)``, by the key of the AUROC that it gives."""
        found = {"auroc": entropy(self.probabilities)}
        return found if self.information is None else {**found, "auroc_information": self.information}


def posterior_predictive(net: BayesianNet, loader: Batches, num_samples: int) -> Predictions:
    """The posterior predictive: class probabilities averaged over networks drawn from the posterior.

    Every batch meets the same networks, the same ones every time on the same kind of device; torch's random numbers go
    on as if nothing had been drawn.

    Args:
        net: The posterior, a classifier's.
        loader: Batches of inputs and labels, at least one.
        num_samples: Number of networks, at least 1.
    """
    device = next(net.parameters()).device
    state = RandomState.now(device)
    batches = []
    for x, y in loader:
        torch.manual_seed(0)
        prediction = net.predict(x.to(device), num_samples)
        assert isinstance(prediction, ClassPrediction)
        mean = prediction.log_probs.cpu().double().softmax(-1).mean(0)  # sums to 1 in float64 too
        batches.append((mean, y.cpu(), prediction.mutual_information.cpu()))
    state.restore()
    probabilities, labels, information = zip(*batches, strict=True)
    return Predictions(torch.cat(probabilities), torch.cat(labels), torch.cat(information))


@dataclass(frozen=True)
class Predictor:
    """What a run arrived at, to predict with.

    Attributes:
        network: The compacted plain network.
        posterior: The compacted posterior, if there are Normal weights.
        num_samples: How many networks are drawn from it.
    """

    network: nn.Module
    posterior: BayesianNet | None
    num_samples: int

    def __call__(self, loader: Batches) -> dict[str, Predictions]:
        """What network and posterior predict, by what the keys of the figures of each begin with."""
        found = {"": Predictions(*class_probabilities(self.network, loader))}
        if self.posterior is not None:
            found[POSTERIOR] = posterior_predictive(self.posterior, loader, self.num_samples)
        return found


def figures(measured: Mapping[str, Calibration]) -> dict[str, float]:
    """The figures of calibrations, by what their keys begin with, as ``result.json`` and ``evaluate`` have them."""
    names = ("accuracy", "nll", "brier", "ece")
    return {prefix + name: getattr(found, name) for prefix, found in measured.items() for name in names}


def draw_diagram(measured: Mapping[str, Calibration], path: Path, config: RunConfig, data: str) -> None:
    """Draw the reliability diagram of a test split, for the posterior predictive if there is one.

    Args:
        measured: Calibrations, by what the keys of their figures begin with.
        path: File for the picture.
        config: Options of the run.
        data: Name of the data set.
    """
    title = f"{config.net}, seed {config.seed}: test split of {short_name(data)}"
    if POSTERIOR in measured:
        draw_reliability(measured[POSTERIOR], path, title=f"{title}, posterior predictive")
    else:
        draw_reliability(measured[""], path, title=title)


def other_images(name: str, splits: Splits, data_dir: str) -> Batches:
    """Images that are to be told from the test images of ``splits``.

    Args:
        name: Data set whose test images they are, or ``noise``: as many images with pixels drawn evenly between 0 and
            the brightest there is, the same ones every time.
        splits: The data that they are normalised as.
        data_dir: Folder of data sets.

    Raises:
        BayesPruneError: if the data set is not there or its images are of another shape.
    """
    own = splits.test
    others = replace(splits, test=Images(_others(name, splits, data_dir), own.mean, own.std))
    return loaders(others, BATCH, 0)[1]


def detection(own: Predictions, others: Predictions) -> dict[str, float]:
    """By the end of its key, the probability that one of the other examples is the less sure one, by each measure.

    Args:
        own: What is predicted for the test images.
        others: What is predicted for images that are to be told from them.
    """
    return {name: auroc(doubt, others.doubts[name]) for name, doubt in own.doubts.items()}


def _others(name: str, splits: Splits, data_dir: str) -> Raw:
    """Images in bytes, which are then normalised as those of ``splits`` are, and labels, which mean nothing."""
    own = splits.test
    if name == NOISE:
        generator = torch.Generator().manual_seed(0)
        levels = int(own.images.max()) + 1
        return Raw(torch.randint(levels, own.images.shape, generator=generator, dtype=torch.uint8), own.labels)
    other = named_data("--against", name, data_dir)
    if other.input_shape != splits.input_shape:
        raise ConfigError(
            f"--against {name}: its images have shape {other.input_shape}, those of {splits.name} have "
            f"{splits.input_shape}; give a data set of that shape, or '{NOISE}'"
        )
    return Raw(other.test.images, other.test.labels)
