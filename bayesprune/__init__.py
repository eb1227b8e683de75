"""bayesprune: Bayesian neural networks that prune themselves while they train."""

from bayesprune import data, distributions, infer, layers, metrics, networks, optim, pruning, selection, training
from bayesprune.infer import BayesianNet
from bayesprune.pruning import compact, cost, load, save
from bayesprune.training import fit

__version__ = "0.1.0"

__all__ = [
    "BayesianNet",
    "compact",
    "cost",
    "data",
    "distributions",
    "fit",
    "infer",
    "layers",
    "load",
    "metrics",
    "networks",
    "optim",
    "pruning",
    "save",
    "selection",
    "training",
]
