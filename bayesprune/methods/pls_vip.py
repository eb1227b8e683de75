"""Filters go that partial least squares finds unimportant for the classes (Jordao et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from sklearn.cross_decomposition import PLSRegression
from torch import Tensor

from bayesprune.errors import ConfigError
from bayesprune.graph.group import Group
from bayesprune.methods.protocol import Needs, Run
from bayesprune.methods.protocol.stats import Statistic
from bayesprune.methods.protocol.structures import Ranked

EXAMPLES, COMPONENTS = 2000, 2
"""Of how many examples outputs are kept, and how many components are fitted."""


class ImportanceInProjection(Ranked):
    """Removes units and filters by the importance of what they give in a projection onto the classes.

    The maxima of all maps over positions, side by side, are the features of a regression by partial least squares on
    the classes. Feature j of p has the importance √(p Σ_h s_h w_jh² / Σ_h s_h), w_h being the unit weight vector of
    component h and s_h what it explains of the classes.

    Args:
        macs: As for `Ranked`.
        layerwise: As for `Ranked`.
        until: As for `Ranked`.

    Raises:
        ConfigError: as `Ranked`, and while training, for targets that are no classes, or of one class.

    Examples:
        >>> ImportanceInProjection.statistics
        ('pooled',)

    Sources:
        Jordao, Lie & Schwartz 2020, "Discriminative Layer Pruning for Convolutional Neural Networks", and 2019,
        "Pruning Deep Neural Networks using Partial Least Squares". There few filters go in each of several rounds.
    """

    name: ClassVar[str] = "pls_vip"
    statistics: ClassVar[tuple[Statistic, ...]] = ("pooled",)

    def setup(self, run: Run) -> Needs:
        """As `Ranked`, with the outputs of some examples."""
        needs = super().setup(run)
        return Needs(needs.phases, stats=needs.stats, examples=EXAMPLES)

    def scores(self, run: Run, found: Sequence[Group]) -> list[Tensor]:
        """The importance of each structure; where several gates decide about it, the mean of theirs."""
        told = run.stats()
        if told.targets is None or told.targets.dim() != 1 or told.targets.is_floating_point():
            raise ConfigError("pls_vip: targets must be classes, as whole numbers of shape (B,)")
        names = [name for group in found for name in group.gates]
        features = torch.cat([told.pooled[name] for name in names], 1)
        parts = iter(importances(features, told.targets).split([told.pooled[name].shape[1] for name in names]))
        return [torch.stack([next(parts) for _ in group.gates]).mean(0) for group in found]


def importances(features: Tensor, classes: Tensor, components: int = COMPONENTS) -> Tensor:
    """The importance of each feature for the classes; the mean of their squares is 1, and a constant has 0.

    Args:
        features: Shape ``(examples, p)``.
        classes: Shape ``(examples,)``.
        components: How many are fitted, as far as there are as many features or classes.

    Raises:
        ConfigError: for examples of one class.
    """
    known, places = classes.unique(return_inverse=True)
    if len(known) < 2:
        raise ConfigError("pls_vip: the examples that are looked at are all of one class")
    y = np.eye(len(known))[places.numpy()]
    rank = min(components, features.shape[1], len(features), len(known))
    model = PLSRegression(n_components=rank, scale=True).fit(features.double().numpy(), y)
    explained = (model.x_scores_**2).sum(0) * (model.y_loadings_**2).sum(0)
    weights = model.x_weights_ / np.linalg.norm(model.x_weights_, axis=0)
    return torch.from_numpy(np.sqrt(len(weights) * (weights**2 @ explained) / explained.sum()))
