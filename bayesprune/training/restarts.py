"""Several starts of one fit, compared by the evidence bound that each has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.batches import Loader
from bayesprune.training.evidence import EvidenceBound, bound_of_all, cost_of_absence
from bayesprune.training.fewer import fewer_units
from bayesprune.training.history import History
from bayesprune.training.loop import fit

TRIAL = 6
"""A trial of fewer units takes the run's length divided by this."""


@dataclass(frozen=True)
class BestFit:
    """The best of several fits.

    Attributes:
        net: Its network.
        history: Its record, without trials of fewer units.
        bounds: The evidence bound of each start, units left out counting as units with θ = 0; none where there was
            nothing to compare.
        weights: softmax of the bounds: what each start would count in a mixture of them all. It is the share of the
            evidence that is known to be its own, if no two starts have found the same mode.
        best: Which of them is returned.

    Examples:
        >>> fits = BestFit(None, None, (EvidenceBound(-3.0, 0.1), EvidenceBound(-1.0, 0.1)), (0.12, 0.88), 1)
        >>> fits.bounds[fits.best].nats
        -1.0
    """

    net: BayesianNet
    history: History
    bounds: tuple[EvidenceBound, ...]
    weights: tuple[float, ...]
    best: int


@checked_arguments
def fit_best(
    nets: Sequence[BayesianNet],
    train_loader: Loader,
    *,
    epochs: int,
    settings: Settings,
    fewer: bool = True,
) -> BestFit:
    """Fit networks that start from different weights, leave out units that the evidence can do without, take the best.

    The objective has many local optima, and the evidence bound of each says how good it is. For tables, whose fits take
    seconds. No gate is removed while training, so that inclusion probabilities are there at the end.

    Args:
        nets: The starts: networks under one prior, each with weights of its own; all are trained in place.
        train_loader: Batches, such as `fit` takes.
        epochs: Length of each fit.
        settings: How to train. The bounds are those at its temperature, where the divergence of weights counts so much.
        fewer: Whether units are left out on trial after each fit, for a sixth of its length each time, see
            `training.fewer`.

    Raises:
        ConfigError: without a start, for a network without Normal weights where units are to be left out, and as `fit`.
        DataError: as `fit`.
    """
    epochs = whole("fit_best: epochs", epochs)
    _check_starts(nets, fewer)
    histories, bounds = [], []
    for net in nets:
        absence = cost_of_absence(net)
        histories.append(fit(net, train_loader, epochs=epochs, prune=False, settings=settings, progress=False))
        if fewer:
            fewer_units(net, train_loader, epochs=max(1, epochs // TRIAL), settings=settings)
        if fewer or len(nets) > 1:
            bounds.append(bound_of_all(net, train_loader, settings.temperature, absence))
    if not bounds:
        return BestFit(nets[0], histories[0], (), (1.0,), 0)
    nats = torch.tensor([bound.nats for bound in bounds], dtype=torch.float64)
    best = int(nats.argmax())
    return BestFit(nets[best], histories[best], tuple(bounds), tuple(nats.softmax(0).tolist()), best)


def _check_starts(nets: Sequence[BayesianNet], fewer: bool) -> None:
    """Refuse what cannot be compared."""
    if len(nets) == 0:
        raise ConfigError("fit_best: expected at least one start, got none; give one BayesianNet or more")
    for net in nets:
        if fewer and net.weights_posterior.name != "normal":
            raise ConfigError("fit_best: the evidence tells of units with Normal weights alone; pass fewer=False")
