"""With which probability a branch of a deep network is there as training begins."""

from __future__ import annotations

from collections.abc import Iterable

from bayesprune.layers import Residual
from bayesprune.layers.gate import INITIAL_THETA

ACTIVE = 9
"""So many branches are on in a step as training begins, on average, in a network that has more."""
FIRST, FALL = 3, 4
"""Of a stage that begins shallow: so many branches are likely to be on, each later one so many times less than the one
before it."""


def begin_with_few(branches: Iterable[Residual]) -> None:
    """Let variational inference of these branches begin with few of them in a step, see `Gate.begin`.

    Deep networks so begin with as many branches as ResNet-20 has, and train more easily for it, as with stochastic
    depth (Huang et al. 2016, arXiv 1603.09382); an epoch takes less time.
    """
    branches = list(branches)
    if len(branches) > ACTIVE:
        for branch in branches:
            branch.gate.begin = ACTIVE / len(branches)


def begin_shallow(stage: Iterable[Residual]) -> None:
    """Let variational inference of a stage begin with its first branches, and later ones ever more rarely on.

    Their probabilities have a finite sum, so three stages begin with nine branches in a step however deep they are, and
    nearly always with the same ones, which learn as those of a shallow network do. Where all are alike likely, each
    learns in a third of the steps, and among others every time. Linear decay of stochastic depth (Huang et al. 2016,
    arXiv 1603.09382) falls within a network in the same way, but to a half.

    Args:
        stage: The branches in their order.
    """
    for later, branch in enumerate(list(stage)[FIRST:], 1):
        branch.gate.begin = INITIAL_THETA / FALL**later
