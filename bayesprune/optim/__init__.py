"""Optimisers: projected SGD for gates, and the remapping of optimiser state when a network shrinks."""

from bayesprune.optim.projected import ProjectedGateSGD, ProjectedSGD
from bayesprune.optim.remap import remap_optimizer

__all__ = ["ProjectedGateSGD", "ProjectedSGD", "remap_optimizer"]
