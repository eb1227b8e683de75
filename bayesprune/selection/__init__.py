"""Variable selection: exact and mean-field references, problems with known support, error rates, interactions."""

from bayesprune.selection.exact import ExactPosterior, enumerate_models
from bayesprune.selection.false_discoveries import Filtered, knockoff_filter, knockoffs
from bayesprune.selection.mixed_differences import interactions
from bayesprune.selection.problems import SelectionProblem, friedman_regression, sparse_regression
from bayesprune.selection.repeated import Stability, stability
from bayesprune.selection.scores import Recovery, power_and_fdr, select
from bayesprune.selection.variational import MeanField, mean_field

__all__ = [
    "ExactPosterior",
    "Filtered",
    "MeanField",
    "Recovery",
    "SelectionProblem",
    "Stability",
    "enumerate_models",
    "friedman_regression",
    "interactions",
    "knockoff_filter",
    "knockoffs",
    "mean_field",
    "power_and_fdr",
    "select",
    "sparse_regression",
    "stability",
]
