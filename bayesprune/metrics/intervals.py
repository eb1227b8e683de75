"""How good predictions of numbers are, and whether their intervals hold what they promise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import DataError
from bayesprune.metrics.checks import vectors


@dataclass(frozen=True)
class RegressionScores:
    """Figures of predictions of numbers.

    Attributes:
        rmse: Root of the mean squared error of the predictive mean, in units of the targets; lower is better.
        log_likelihood: Mean log predictive density, nats per example, for targets in their own units; higher is
            better.

    Examples:
        >>> import torch
        >>> regression_scores(torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 2.0]), torch.tensor([4.0, 5.0]))
        RegressionScores(rmse=3.0, log_likelihood=-2.0)
    """

    rmse: float
    log_likelihood: float


@checked_arguments
def regression_scores(log_density: Tensor, mean: Tensor, targets: Tensor) -> RegressionScores:
    """Judge predictive distributions of numbers.

    Args:
        log_density: Log density of the targets under the predictive distribution, nats, shape ``(N,)``. With S draws
            of the network that is log (1/S) Σ_s p(y | draw s), not the mean of the logarithms. Where targets were
            divided by s for training, subtract log s.
        mean: Predictive mean, shape ``(N,)``, in units of the targets.
        targets: Shape ``(N,)``.

    Raises:
        DataError: if the tensors are empty, of different shapes, or hold NaN or infinite values.
    """
    from torchmetrics.functional.regression import mean_squared_error  # slow to import

    density, predicted, y = vectors("regression_scores", log_density=log_density, mean=mean, targets=targets)
    return RegressionScores(float(mean_squared_error(predicted, y, squared=False)), float(density.mean()))


@checked_arguments
def coverage(low: Tensor, high: Tensor, targets: Tensor) -> float:
    """Fraction of targets in their predictive intervals [low, high], which should be the intervals' probability.

    Args:
        low: Lower ends, shape ``(N,)``.
        high: Upper ends, shape ``(N,)``.
        targets: Shape ``(N,)``, in the same units.

    Raises:
        DataError: if the tensors are empty, of different shapes, or hold NaN or infinite values, or an interval has
            its ends the wrong way round.
    """
    lower, upper = vectors("coverage", low=low, high=high)
    wrong = int((lower > upper).sum())
    if wrong:
        raise DataError(
            f"coverage: expected low <= high, found {wrong} of {len(lower)} intervals the other way round; "
            "swap the arguments"
        )
    *_, y = vectors("coverage", low=low, high=high, targets=targets)
    return float(((lower <= y) & (y <= upper)).double().mean())
