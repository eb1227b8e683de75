"""With which probability a branch of a deep network is there as training begins."""

from __future__ import annotations

from bayesprune.layers.gate import INITIAL_THETA

ACTIVE = 9
"""So many branches are on in a step as training begins, on average, if that leaves each on more often than off."""
LEAST = 0.51
"""Above a half, so that a branch counts as on wherever no gates are drawn, as in a network before its training."""


def initial_theta(branches: int) -> float:
    """The initial inclusion probability of each of so many branches.

    Deep networks so begin with few more branches than ResNet-20 has, and train more easily for it, as with stochastic
    depth (Huang et al. 2016, arXiv 1603.09382); an epoch takes half as long.
    """
    return max(LEAST, min(INITIAL_THETA, ACTIVE / branches))
