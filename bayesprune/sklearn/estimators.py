"""The classifier and the regressor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets

from bayesprune.checked import meant, shown
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import (
    Categorical,
    Heteroscedastic,
    LearnedGaussian,
    Likelihood,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from bayesprune.infer.likelihoods.counts import Counts
from bayesprune.layers import moments
from bayesprune.sklearn.base import BayesPruneEstimator, gathered
from bayesprune.sklearn.table import check_examples, counted, weights_of_classes


class BayesPruneRegressor(RegressorMixin, BayesPruneEstimator):
    """A Bayesian multilayer perceptron that prunes its inputs and hidden units while it trains, for reals and counts.

    Inputs and real targets are standardised within. The scale of the noise is learned, and with 20 columns and more and
    less than five rows for each the scale of the weights' prior too, by layer. Every input and every hidden unit has a
    gate, whose posterior inclusion probability says whether the data need it; columns that are constant have
    probability 0. It works in a ``Pipeline``, in ``GridSearchCV``, and as ``SelectFromModel(BayesPruneRegressor(),
    importance_getter="inclusion_probabilities_", threshold=0.5)``.

    Args:
        hidden_layer_sizes: Units of the hidden layers at the start; ``()`` for a linear model.
        weights: Posterior of the weights: ``"normal"``, the default, or ``"point"`` for a point estimate.
        temperature: How much the divergence of Normal weights from their prior counts in training. The default, 0.1,
            is for decisions and predictions: which columns the fit uses, by ½, and with which error. Give 1.0, the
            evidence lower bound, where ``inclusion_probabilities_`` are to be read as probabilities or
            ``evidence_bounds_`` as evidence; a mean field of few data per weight then says less than it knows, and
            prunes more. For predictions alone it is worth a search by log-likelihood on held-out data. Points have no
            such divergence, and do not look at it.
        prior_inclusion: Prior inclusion probability of an input, in (0, 1): the number of inputs that are expected to
            matter, divided by that of all. A hidden unit has ½.
        epochs: Passes over the data; ``"auto"`` for 150, or as many as make 2,000 steps of a small table.
        batch_size: Rows a batch; ``"auto"`` for a twentieth of the rows, between 16 and 512.
        learning_rate: Peak learning rate of Adam.
        num_samples: Posterior samples that a prediction averages; 0 for one at the posterior mode.
        random_state: Seed; with an int, `fit` gives the same estimator each time. The session's random state is left
            as it is.
        slab: Another name of ``weights``.
        groups: Columns that go together, by name or index: ``[["red", "green", "blue"]]`` for the one-hot columns of a
            category. They have one gate and one inclusion probability; other columns have each their own.
        restarts: How many networks are trained from different weights; the one with the highest evidence bound is kept.
            Every second one begins with noise that stays small for a while, and finds what acts by a curve alone: worth
            its time where columns are many. 2 take about two and a half times as long as 1.
            At temperature 1 hidden units are left out on trial as well, and stay out where the bound prefers it.
        likelihood: Of real targets ``"learned_gaussian"``, ``"student_t"`` (heavy tails) or ``"heteroscedastic"``
            (noise that depends on the inputs), of counts ``"poisson"`` or ``"negative_binomial"``, see
            `bayesprune.infer`.

    Attributes:
        inclusion_probabilities_: Posterior inclusion probability of every input, shape ``(n_features_in_,)``. Those of
            temperature 1 approximate probabilities under the model, in the mean field of one mode (the prior is fixed,
            not the flattening one, whose θ would be decisions); at a lower one, such as the default, they are too high,
            and are a decision: by ½ they say which inputs the fit uses. After too short a run (`fit` warns) they say
            nothing.
        evidence_bounds_: The evidence lower bound of each start, nats, in the units of targets, shape ``(restarts,)``;
            at another temperature than 1 the objective, no evidence. Empty for one start without trials of fewer units.
        compact_: The plain small network at the posterior mode, a ``torch.nn.Module``: from inputs in their own units,
            float32, shape ``(B, n_features_in_)``, to predictions in those of the targets, shape ``(B, 1)`` or
            ``(B, k)``; of counts to the logarithm of their mean, and of ``"heteroscedastic"`` to k numbers more for
            the noise. ``network_.likelihood.distribution`` makes the law of a target of what it gives. It can be saved
            with `bayesprune.save` and exported with `bayesprune.pruning.export_onnx`.
        network_: The `BayesianNet`, of inputs and targets in their own units, float64; ``network_.likelihood`` has the
            noise.
        history_: Record of the run: one row an epoch, and the path of every gate.
        n_iter_: Number of epochs done.
        n_features_in_: Number of inputs d.
        feature_names_in_: Their names, if they were columns with names.

    Examples:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = BayesPruneRegressor(epochs=5, learning_rate=0.05, random_state=0).fit(X, y)
        >>> model.inclusion_probabilities_.shape, model.predict(X[:2]).shape
        ((10,), (2,))
    """

    _shape: tuple[int, ...]

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
        likelihood: str = "learned_gaussian",
    ):
        super().__init__(
            hidden_layer_sizes,
            weights=weights,
            temperature=temperature,
            prior_inclusion=prior_inclusion,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            num_samples=num_samples,
            random_state=random_state,
            slab=slab,
            groups=groups,
            restarts=restarts,
        )
        self.likelihood = likelihood

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> BayesPruneRegressor:
        """Train and prune.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            y: Targets, shape ``(n,)``, or several in each row, shape ``(n, k)``, of which each has noise of its own.
            sample_weight: How much each row counts, shape ``(n,)``, not negative; only their ratios matter. A row of
                weight 0 counts as absent.

        Raises:
            ValueError: for data of other shapes, NaN or infinite values, columns that are not numbers, weights that are
                negative or all zero (`DataError`), or parameters that cannot work (`ConfigError`).
        """
        X, y, weights = check_examples(self, X, y, sample_weight)
        rows, self._shape = torch.tensor(y.reshape(len(y), -1), dtype=torch.float64), y.shape[1:]
        likelihood, targets = self._likelihood(), rows
        if not isinstance(likelihood, Counts):
            location, scale = moments(rows, torch.from_numpy(weights))
            targets = (rows - location) / scale
        outputs = rows.shape[1] * (2 if isinstance(likelihood, Heteroscedastic) else 1)
        self._train(X, targets.float(), weights, likelihood, outputs, rows)
        return self

    def _likelihood(self) -> Likelihood:
        """What the network's outputs say about the targets, float32."""
        of_scales = {"learned_gaussian": LearnedGaussian, "student_t": StudentT}
        others = {"heteroscedastic": Heteroscedastic, "poisson": Poisson, "negative_binomial": NegativeBinomial}
        if self.likelihood in of_scales:
            return of_scales[self.likelihood](shape=self._shape).float()
        if self.likelihood in others:
            return others[self.likelihood]().float()
        got = shown(self.likelihood) + meant(self.likelihood, of_scales | others)
        raise ConfigError(f"likelihood must be one of {', '.join(of_scales | others)}, got {got}")

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn is told of the estimator: several targets are welcome."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The posterior predictive mean, shape ``(n,)``, of several targets ``(n, k)``, in the units of the targets.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            return_std: Whether to return the standard deviation of a new target too, of the same shape: of the noise,
                and of what the posterior leaves open.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for another number or other names of columns than in `fit`, NaN or infinite values.
        """
        found = gathered(self._predictions(X), lambda p: torch.cat((p.mean, p.variance.sqrt()), 1))
        mean, deviation = (part.reshape(-1, *self._shape) for part in np.split(found, 2, axis=1))
        return (mean, deviation) if return_std else mean

    def predict_interval(self, X: Any, level: float = 0.95) -> NDArray[np.float64]:
        """Central intervals in which a new target lies with probability ``level``, shape ``(n, 2)``.

        Of several targets they are those of each, shape ``(n, k, 2)``.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            level: In (0, 1).

        Raises:
            NotFittedError: before `fit`.
            ValueError: as for `predict`, or for a level outside (0, 1).
        """
        found = gathered(self._predictions(X), lambda p: torch.stack(p.interval(level), 2))
        return found.reshape(-1, *self._shape, 2)


class BayesPruneClassifier(ClassifierMixin, BayesPruneEstimator):
    """A Bayesian multilayer perceptron that prunes its inputs and hidden units while it trains, for classes.

    Everything that is not said here is as for `BayesPruneRegressor`.

    Args:
        class_weight: How much rows of each class count: ``"balanced"`` for all classes alike, whatever their numbers of
            rows, a dict from labels to weights, or ``None``. It multiplies ``sample_weight``, and only ratios matter.
        ordered: Whether the sorted labels are in an order, such as grades or stages: the network then gives one number,
            which cut points that are learned make probabilities (`bayesprune.infer.Ordinal`).

    Attributes:
        classes_: The labels, sorted, shape ``(K,)``.
        compact_: The plain small network; its outputs are logits, shape ``(B, K)``, or of ordered labels that one
            number, shape ``(B, 1)``.

    Examples:
        >>> from sklearn.datasets import load_wine
        >>> X, y = load_wine(return_X_y=True)
        >>> model = BayesPruneClassifier(epochs=5, learning_rate=0.05, random_state=0).fit(X, y)
        >>> model.predict_proba(X[:2]).shape
        (2, 3)
    """

    classes_: NDArray

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
        class_weight: Mapping[Any, float] | str | None = None,
        ordered: bool = False,
    ):
        super().__init__(
            hidden_layer_sizes,
            weights=weights,
            temperature=temperature,
            prior_inclusion=prior_inclusion,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            num_samples=num_samples,
            random_state=random_state,
            slab=slab,
            groups=groups,
            restarts=restarts,
        )
        self.class_weight, self.ordered = class_weight, ordered

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> BayesPruneClassifier:
        """Train and prune.

        Args:
            X: Table of numbers, shape ``(n, d)``.
            y: Labels, shape ``(n,)``, numbers or strings, of at least two classes.
            sample_weight: As for `BayesPruneRegressor.fit`.

        Raises:
            ValueError: as for `BayesPruneRegressor.fit`, and for labels of one class only or a ``class_weight``
                that cannot be (`DataError`).
        """
        if not isinstance(self.ordered, bool):
            raise ConfigError(f"ordered must be True or False, got {shown(self.ordered)}")
        X, y, weights = check_examples(self, X, y, sample_weight)
        if self.class_weight is not None:
            X, y, weights = counted(X, y, weights * weights_of_classes(self.class_weight, y))
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"BayesPruneClassifier: expected labels of at least two classes, found one class, {classes[0]}, in "
                f"{len(y)} rows of positive weight"
            )
        self.classes_ = classes
        likelihood = Ordinal(len(classes)).float() if self.ordered else Categorical()
        numbers = torch.from_numpy(labels)
        self._train(X, numbers, weights, likelihood, 1 if self.ordered else len(classes), numbers)
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
