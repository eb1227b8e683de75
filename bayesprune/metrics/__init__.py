"""Figures of predictions: tensors in, numbers out."""

from bayesprune.metrics.intervals import RegressionScores, coverage, regression_scores
from bayesprune.metrics.out_of_distribution import auroc, entropy
from bayesprune.metrics.reliability import Bin, Calibration, calibration

__all__ = [
    "Bin",
    "Calibration",
    "RegressionScores",
    "auroc",
    "calibration",
    "coverage",
    "entropy",
    "regression_scores",
]
