"""Figures of predictions: tensors in, numbers out."""

from bayesprune.metrics.calibration import Bin, Calibration, calibration
from bayesprune.metrics.intervals import RegressionScores, coverage, regression_scores, sharpness
from bayesprune.metrics.out_of_distribution import auroc, entropy

__all__ = [
    "Bin",
    "Calibration",
    "RegressionScores",
    "auroc",
    "calibration",
    "coverage",
    "entropy",
    "regression_scores",
    "sharpness",
]
