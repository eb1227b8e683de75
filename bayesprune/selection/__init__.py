"""Variable selection: exact and mean-field references, problems with known support, power and false discovery rate."""

from bayesprune.selection.exact import ExactPosterior, enumerate_models
from bayesprune.selection.problems import SelectionProblem, friedman_regression, sparse_regression
from bayesprune.selection.scores import Recovery, power_and_fdr, select
from bayesprune.selection.variational import MeanField, mean_field

__all__ = [
    "ExactPosterior",
    "MeanField",
    "Recovery",
    "SelectionProblem",
    "enumerate_models",
    "friedman_regression",
    "mean_field",
    "power_and_fdr",
    "select",
    "sparse_regression",
]
