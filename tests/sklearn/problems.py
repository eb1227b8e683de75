"""Tables with a known answer, and estimators that are quick to train."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayesprune.sklearn import BayesPruneClassifier, BayesPruneRegressor

NOISE = 0.5
RELEVANT = [0, 3, 7]


def linear_table(rows: int, seed: int = 0, columns: int = 10) -> tuple[NDArray, NDArray]:
    """Independent inputs, of which three matter, and a target with noise of standard deviation ½."""
    generator = np.random.default_rng(seed)
    X = generator.standard_normal((rows, columns))
    return X, X[:, RELEVANT] @ [1.0, -0.7, 0.5] + NOISE * generator.standard_normal(rows)


TABLE, NEW = linear_table(120, seed=1), linear_table(2000, seed=9)
"""What the regressor of the fixture is trained on, and rows that it has not seen."""


def three_classes(rows: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Two inputs, of which the angle says the class, and two that say nothing; labels are strings."""
    generator = np.random.default_rng(seed)
    X = generator.standard_normal((rows, 4))
    angle = np.arctan2(X[:, 0], X[:, 1])
    return X, np.array(["north", "south", "west"])[np.digitize(angle, [-1, 1])]


def regressor(**changes: Any) -> BayesPruneRegressor:
    """A linear model with the whole divergence, whose posterior is known exactly; it learns in a second."""
    exact = {"hidden_layer_sizes": (), "temperature": 1.0, "epochs": 60, "batch_size": 30, "random_state": 0}
    return BayesPruneRegressor(**{**exact, "learning_rate": 0.05, **changes})


def classifier(**changes: Any) -> BayesPruneClassifier:
    """A classifier that learns `three_classes` in a second."""
    return BayesPruneClassifier(
        **{"hidden_layer_sizes": (8,), "epochs": 40, "learning_rate": 0.03, "random_state": 0, **changes}
    )


def brief(**changes: Any) -> BayesPruneRegressor:
    """A regressor with a hidden layer that learns little, in steps that let weights arrive all the same."""
    return BayesPruneRegressor(
        **{
            "hidden_layer_sizes": (8,),
            "epochs": 3,
            "learning_rate": 0.3,
            "num_samples": 4,
            "random_state": 0,
            **changes,
        }
    )


def plain(estimator: BayesPruneRegressor | BayesPruneClassifier, X: np.ndarray) -> np.ndarray:
    """Outputs of the plain small network for the table as it is."""
    with torch.no_grad():
        return estimator.compact_(torch.tensor(X, dtype=torch.float32)).double().numpy()
