"""Whether class probabilities mean what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.metrics.checks import class_labels, class_probabilities


@dataclass(frozen=True)
class Bin:
    """The examples whose confidence is in [low, high), in [low, 1] for the last bin.

    Attributes:
        low: Lower edge.
        high: Upper edge.
        count: Number of examples.
        confidence: Mean probability of the class that is taken; NaN without examples.
        accuracy: Fraction classified right; NaN without examples.

    Examples:
        >>> import torch
        >>> found = calibration(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]), bins=2)
        >>> found.bins[1]
        Bin(low=0.5, high=1.0, count=2, confidence=0.75, accuracy=0.5)
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Figures of class probabilities on labelled examples; for the first three, lower is better.

    Attributes:
        nll: Mean negative log-likelihood, nats per example; infinite if a label was given probability 0.
        brier: Brier score: mean over examples of Σ_c (p_c - 1[label = c])², from 0 to 2 (Brier, 1950, eq. 2).
        ece: Expected calibration error: mean over examples of the distance, in the example's bin, between mean
            confidence and accuracy, from 0 to 1 (Guo et al., 2017, arXiv 1706.04599, eq. 3).
        accuracy: Fraction classified right.
        bins: The bins of ``ece`` from low to high confidence, which a reliability diagram shows.

    Examples:
        >>> import torch
        >>> found = calibration(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 1]))
        >>> found.accuracy, found.ece, found.brier
        (1.0, 0.25, 0.125)
    """

    nll: float
    brier: float
    ece: float
    accuracy: float
    bins: tuple[Bin, ...] = field(repr=False)


@checked_arguments
def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Judge class probabilities, those of one network or of a posterior predictive.

    Args:
        probabilities: Shape ``(N, C)``, rows that sum to 1. Give float64 where a network is sure of itself: in
            float32 a softmax makes probabilities below 1e-45 zeros.
        labels: Class numbers, shape ``(N,)``, integers from 0 to C - 1.
        bins: Number of bins of one width between 0 and 1.

    Raises:
        ConfigError: if ``bins`` < 1.
        DataError: unless probabilities and labels are what is said above, with N > 0 and C > 1.
    """
    from torchmetrics.functional.classification import binary_calibration_error  # slow to import

    bins = whole("calibration: bins", bins, hint="15 is usual")
    p = class_probabilities("calibration", probabilities)
    y = class_labels("calibration", labels, (p.shape[0], p.shape[1]))
    confidence, predicted = p.max(1)
    right = (predicted == y).double()
    of_label = p.gather(1, y[:, None])[:, 0]
    # torchmetrics gives a confidence of 1 a bin of its own, and takes numbers above 1 for logits.
    confidence = confidence.clamp(max=math.nextafter(1.0, 0.0))
    return Calibration(
        nll=float(-of_label.log().mean()),
        brier=float((p.square().sum(1) - 2 * of_label + 1).mean()),
        ece=float(binary_calibration_error(confidence, right.long(), n_bins=bins)),
        accuracy=float(right.mean()),
        bins=_bins(confidence, right, bins),
    )


def _bins(confidence: Tensor, right: Tensor, number: int) -> tuple[Bin, ...]:
    """Cut [0, 1) into bins of one width; ``confidence`` and ``right`` of shape ``(N,)``."""
    edges = torch.linspace(0, 1, number + 1, dtype=confidence.dtype)
    index = torch.bucketize(confidence, edges, right=True) - 1
    count = torch.bincount(index, minlength=number)
    means = [torch.bincount(index, weights, minlength=number) / count for weights in (confidence, right)]
    columns = (edges[:-1], edges[1:], count, *means)
    return tuple(Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True))
