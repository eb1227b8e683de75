"""With which probability a branch of a deep network is there as training begins."""

from __future__ import annotations

from collections.abc import Iterable

from bayesprune.layers import Residual

ACTIVE = 9
"""So many branches are on in a step as training begins, on average, in a network that has more."""


def begin_with_few(branches: Iterable[Residual]) -> None:
    """Let variational inference of these branches begin with few of them in a step, see `Gate.begin`.

    Deep networks so begin with as many branches as ResNet-20 has, and train more easily for it, as with stochastic
    depth (Huang et al. 2016, arXiv 1603.09382); an epoch takes less time.
    """
    branches = list(branches)
    if len(branches) > ACTIVE:
        for branch in branches:
            branch.gate.begin = ACTIVE / len(branches)
