"""Optimisers: projected SGD for gates, those of weights by name, and state that follows a shrinking network."""

from bayesprune.optim.named import OPTIMIZERS, nesterov
from bayesprune.optim.projected import ProjectedSGD
from bayesprune.optim.remap import remap_optimizer

__all__ = ["OPTIMIZERS", "ProjectedSGD", "nesterov", "remap_optimizer"]
