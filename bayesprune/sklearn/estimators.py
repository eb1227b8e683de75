"""The classifier and the regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets

from bayesprune.errors import DataError
from bayesprune.infer import Categorical, LearnedGaussian
from bayesprune.sklearn.base import BayesPruneEstimator, gathered
from bayesprune.sklearn.table import check_examples


class BayesPruneRegressor(RegressorMixin, BayesPruneEstimator):
    """A Bayesian multilayer perceptron that prunes its inputs and hidden units while it trains, for real targets.

    Inputs and targets are standardised within. The noise is Gaussian, its scale learned. Every input and every hidden
    unit has a gate, whose posterior inclusion probability says whether the data need it; columns that are constant have
    probability 0. It works in a ``Pipeline``, in ``GridSearchCV``, and as ``SelectFromModel(BayesPruneRegressor(),
    importance_getter="inclusion_probabilities_", threshold=0.5)``.

    Args:
        hidden_layer_sizes: Units of the hidden layers at the start; ``()`` for a linear model.
        slab: ``"normal"`` for a Normal posterior of every weight, ``"point"`` for a point estimate.
        temperature: How much the divergence of Normal weights from their prior counts in training: 1 is the evidence
            lower bound, with which a mean field of few data per weight says less than it knows, and prunes more. Worth
            a search by log-likelihood on held-out data. Points have no such divergence, and do not look at it.
        prior_inclusion: Prior inclusion probability of an input, in (0, 1): the number of inputs that are expected to
            matter, divided by that of all. A hidden unit has ½.
        epochs: Passes over the data.
        batch_size: Rows a batch; ``"auto"`` for a twentieth of the rows, between 16 and 512.
        learning_rate: Peak learning rate of Adam.
        num_samples: Posterior samples that a prediction averages; 0 for one at the posterior mode.
        random_state: Seed; with an int, `fit` gives the same estimator each time. The session's random state is left
            as it is.

    Attributes:
        inclusion_probabilities_: Posterior inclusion probability of every input, shape ``(n_features_in_,)``. Those of
            temperature 1 are probabilities under the model; at a lower one they are too high.
        compact_: The plain small network at the posterior mode, a ``torch.nn.Module``: from inputs in their own units,
            float32, shape ``(B, n_features_in_)``, to predictions in those of the targets, shape ``(B, 1)``. It can be
            saved with `bayesprune.save`.
        network_: The `BayesianNet`, of standardised inputs and targets, float64.
        history_: Record of the run: one row an epoch, and the path of every gate.
        n_iter_: Number of epochs done.
        n_features_in_: Number of inputs d.
        feature_names_in_: Their names, if they were columns with names.
    """

    _targets: StandardScaler

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> BayesPruneRegressor:
        """Train and prune.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            y: Targets, shape ``(n,)``.
            sample_weight: How much each row counts, shape ``(n,)``, not negative; only their ratios matter. A row of
                weight 0 counts as absent.

        Raises:
            ValueError: for data of other shapes, NaN or infinite values, columns that are not numbers, weights that are
                negative or all zero (`DataError`), or parameters that cannot work (`ConfigError`).
        """
        X, y, weights = check_examples(self, X, y, sample_weight)
        self._targets = StandardScaler().fit(y[:, None], sample_weight=weights)
        standardised = torch.tensor(self._targets.transform(y[:, None]), dtype=torch.float32)
        self._train(X, standardised, weights, LearnedGaussian(), 1, self._targets)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The posterior predictive mean, shape ``(n,)``, in the units of the targets.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            return_std: Whether to return the standard deviation of a new target too, shape ``(n,)``: of the noise, and
                of what the posterior leaves open.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for another number or other names of columns than in `fit`, NaN or infinite values.
        """
        found = gathered(self._predictions(X), lambda p: torch.cat((p.mean, p.variance.sqrt()), 1))
        mean = self._targets.inverse_transform(found[:, :1])[:, 0]
        return (mean, found[:, 1] * self._targets.scale_[0]) if return_std else mean

    def predict_interval(self, X: Any, level: float = 0.95) -> NDArray[np.float64]:
        """Central intervals in which a new target lies with probability ``level``, shape ``(n, 2)``.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            level: In (0, 1).

        Raises:
            NotFittedError: before `fit`.
            ValueError: as for `predict`, or for a level outside (0, 1).
        """
        found = gathered(self._predictions(X), lambda p: torch.cat(p.interval(level), 1))
        return found * self._targets.scale_ + self._targets.mean_


class BayesPruneClassifier(ClassifierMixin, BayesPruneEstimator):
    """A Bayesian multilayer perceptron that prunes its inputs and hidden units while it trains, for classes.

    Everything that is not said here is as for `BayesPruneRegressor`.

    Attributes:
        classes_: The labels, sorted, shape ``(K,)``.
        compact_: The plain small network; its outputs are logits, shape ``(B, K)``.
    """

    classes_: NDArray

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> BayesPruneClassifier:
        """Train and prune.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            y: Labels, shape ``(n,)``, numbers or strings, of at least two classes.
            sample_weight: As for `BayesPruneRegressor.fit`.

        Raises:
            ValueError: as for `BayesPruneRegressor.fit`, and for labels of one class only (`DataError`).
        """
        X, y, weights = check_examples(self, X, y, sample_weight)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"BayesPruneClassifier: expected labels of at least two classes, found one class, {classes[0]}, in "
                f"{len(y)} rows of positive weight"
            )
        self.classes_ = classes
        self._train(X, torch.from_numpy(labels), weights, Categorical(), len(classes), None)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Class probabilities, averaged over the posterior, shape ``(n, K)``, in the order of ``classes_``.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for another number or other names of columns than in `fit`, NaN or infinite values.
        """
        return gathered(self._predictions(X), lambda p: p.mean)

    def predict(self, X: Any) -> NDArray:
        """The most probable label of each row, shape ``(n,)``; raises as `predict_proba`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]
