"""What the classifier and the regressor share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from bayesprune.checked import real, shown, whole
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet, Likelihood, Prediction
from bayesprune.infer.posterior import asked_for
from bayesprune.layers import moments
from bayesprune.layers.units import UNREAD
from bayesprune.sklearn.network import gated_mlp, inclusion, plain_network, set_units
from bayesprune.sklearn.table import check_inputs, groups_of
from bayesprune.sklearn.training import Training, chosen_batch_size, chosen_epochs, one_thread, own_random_state
from bayesprune.training import History

ROWS = 4096
"""How many rows are predicted at once."""
MOST_RESTARTS = 1000
"""More starts than anybody waits for."""


class BayesPruneEstimator(BaseEstimator):
    """Parameters, training and prediction of both estimators.

    Args:
        hidden_layer_sizes: As for `BayesPruneRegressor`, and so are all others.
        weights: As there.
        temperature: As there.
        prior_inclusion: As there.
        epochs: As there.
        batch_size: As there.
        learning_rate: As there.
        num_samples: As there.
        random_state: As there.
        slab: As there.
        groups: As there.
        restarts: As there.
    """

    network_: BayesianNet
    compact_: nn.Module
    history_: History
    inclusion_probabilities_: NDArray[np.float64]
    evidence_bounds_: NDArray[np.float64]
    n_iter_: int
    n_features_in_: int
    _seed: int

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (50,),
        *,
        weights: str | None = None,
        temperature: float = 0.1,
        prior_inclusion: float = 0.5,
        epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 0.01,
        num_samples: int = 32,
        random_state: int | RandomState | None = None,
        slab: str | None = None,
        groups: Sequence[Sequence[int | str]] | None = None,
        restarts: int = 1,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.weights = weights
        self.temperature = temperature
        self.prior_inclusion = prior_inclusion
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_samples = num_samples
        self.random_state = random_state
        self.slab = slab
        self.groups = groups
        self.restarts = restarts

    def get_support(self, indices: bool = False) -> NDArray:
        """Which inputs the posterior keeps: those whose inclusion probability is above ½.

        After too short a run, of which `fit` warns, probabilities are where they began, and this says nothing.

        Args:
            indices: Whether to return their indices instead of a mask of shape ``(n_features_in_,)``.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        kept = self.inclusion_probabilities_ > 0.5
        return np.flatnonzero(kept) if indices else kept

    def _train(
        self,
        X: NDArray,
        y: Tensor,
        weights: NDArray,
        likelihood: Likelihood,
        outputs: int,
        targets: Tensor,
    ) -> None:
        """Build and train the network; all attributes of a fitted estimator but the classes are set here.

        Args:
            X: Inputs, shape ``(n, d)``.
            y: Targets, as ``likelihood`` takes them, standardised if they are reals.
            weights: Weights of the rows, shape ``(n,)``, of mean 1.
            likelihood: What the network's outputs say about the targets.
            outputs: Number of outputs.
            targets: The targets in their own units.
        """
        training, table, counts = self._training(len(X)), torch.from_numpy(X), torch.from_numpy(weights)
        inputs = moments(table, counts, constant=UNREAD)
        x = (table - inputs[0]) / inputs[1]
        constant = np.ptp(x.numpy(), axis=0) < 0.5  # all others have standard deviation 1
        absent = constant & ~constant.all()
        groups = groups_of(self, self.groups, X.shape[1])
        try:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        except ValueError as error:
            raise ConfigError(
                "random_state must be a whole number, from 0 to 2**32 - 1, a RandomState, or None, got "
                f"{shown(self.random_state)}"
            ) from error
        with own_random_state(seed), one_thread():
            hidden, units = self._hidden(), likelihood.take_units(y, counts)
            found = training.train(
                lambda: gated_mlp(len(x), hidden, outputs, absent, units, groups),
                likelihood,
                x.float(),
                y,
                counts.float(),
            )
        bnn = found.net.eval().double()  # so that a row's prediction does not depend on the rows beside it
        units = bnn.likelihood.take_units(targets, counts)
        set_units(bnn.net, inputs, units)
        self.inclusion_probabilities_ = np.where(constant, 0.0, inclusion(bnn.net, bnn.gate_probs(), absent))
        self.network_, self.compact_, self._seed = bnn, plain_network(bnn.net), seed
        self.history_, self.n_iter_ = found.history, len(found.history.rows)
        of_units = 0.0 if units is None else len(X) * float(units[1].log().sum())  # what densities lose with a scale
        self.evidence_bounds_ = np.array([bound.nats - of_units for bound in found.bounds])

    def _training(self, rows: int) -> Training:
        """How to train on so many rows."""
        automatic = isinstance(self.batch_size, str) and self.batch_size == "auto"
        batch = chosen_batch_size(rows) if automatic else whole("batch_size", self.batch_size, hint="or give 'auto'")
        whole("num_samples", self.num_samples, 0)
        itself = isinstance(self.epochs, str) and self.epochs == "auto"
        return Training(
            asked_for(self.weights, self.slab, "normal"),
            real("temperature", self.temperature, 0),
            real("prior_inclusion", self.prior_inclusion, 0, 1),
            chosen_epochs(rows, batch) if itself else whole("epochs", self.epochs, hint="or give 'auto'"),
            batch,
            real("learning_rate", self.learning_rate, 0),
            whole("restarts", self.restarts, 1, MOST_RESTARTS),
        )

    def _hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        sizes = self.hidden_layer_sizes
        several = isinstance(sizes, Iterable) and not isinstance(sizes, str) and getattr(sizes, "ndim", 1) == 1
        if not (several and all(map(_is_width, sizes))):
            raise ConfigError(
                "hidden_layer_sizes must hold the number of units of each hidden layer, at least 1: (50,), or nothing, "
                f"(), for a linear model; got {shown(sizes)}"
            )
        return tuple(int(size) for size in sizes)

    def _predictions(self, X: Any) -> Iterator[Prediction]:
        """The posterior predictive, some rows at a time, each with the same draws."""
        check_is_fitted(self)
        x = torch.tensor(check_inputs(self, X))  # a copy, since frames hand out arrays that are read-only
        for rows in x.split(ROWS):
            with own_random_state(self._seed):
                prediction = self.network_.predict(rows, self.num_samples)
            yield prediction


def _is_width(size: Any) -> bool:
    return isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1


def gathered(predictions: Iterator[Prediction], part: Callable[[Any], Tensor]) -> NDArray[np.float64]:
    """One part of the predictions of all rows, shape ``(n, ...)``.

    Args:
        predictions: Those of some rows at a time.
        part: What to take of each.
    """
    return torch.cat([part(prediction) for prediction in predictions]).numpy()
