"""What the estimators are given, checked: a table of numbers, targets, weights of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_regressor
from sklearn.utils import compute_sample_weight
from sklearn.utils.validation import check_array, column_or_1d, validate_data

from bayesprune.checked import meant, shown, whole
from bayesprune.errors import ConfigError, DataError
from bayesprune.sklearn.refusals import dates, explanation

LARGEST = 1e150
"""Size of a number whose square float64 holds, and the sum of many such squares."""


def check_inputs(estimator: BaseEstimator, X: Any) -> NDArray[np.float64]:
    """``X`` as numbers, shape ``(n, d)``, its columns those that the estimator was fitted with.

    Args:
        estimator: A fitted estimator.
        X: Table of numbers.

    Raises:
        ValueError: by scikit-learn, for another number or other names of columns.
        TypeError: for cells that are objects of other kinds.
        DataError: for columns that are not numbers, by name, and NaN or infinite values, by name and row.
    """
    return _as_numbers(estimator, X, reset=False)


def check_examples(
    estimator: BaseEstimator, X: Any, y: Any, sample_weight: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray, NDArray[np.float64]]:
    """Inputs, targets and weights of the rows that count; number and names of columns are noted in the estimator.

    Args:
        estimator: Whose ``fit`` was called.
        X: Table, shape ``(n, d)``.
        y: Targets, shape ``(n,)``, for a regressor ``(n, k)`` too.
        sample_weight: Shape ``(n,)``; ``None`` for equal weights.

    Returns:
        Inputs, shape ``(m, d)``, targets, shape ``(m,)`` or ``(m, k)``, and weights of mean 1, shape ``(m,)``, without
        the rows of weight 0.

    Raises:
        ValueError: by scikit-learn, for wrong shapes, NaN or infinite targets, sparse matrices.
        TypeError: for cells that are objects of other kinds.
        DataError: for columns or targets of a regressor that are not numbers, NaN or infinite values in ``X``, by name
            and row, numbers whose squares are too large for float64, labels of several kinds, and weights that are
            negative or all zero.
    """
    numeric = is_regressor(estimator)
    X, y = _as_numbers(estimator, X, y=y, y_numeric=numeric, multi_output=numeric, ensure_min_samples=2)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    names = getattr(estimator, "feature_names_in_", range(X.shape[1]))
    _check_sizes({f"column {name!r}": column for name, column in zip(names, X.T, strict=True)})
    if numeric:
        _check_sizes({"y": y})
    else:
        _check_labels(y)
    return counted(X, y, _check_weights(sample_weight, len(X)))


def groups_of(estimator: BaseEstimator, groups: Any, columns: int) -> list[list[int]] | None:
    """Groups of columns by their indices, every column that was not named in one of its own; ``None`` for no groups.

    Args:
        estimator: Which has seen the names of the columns.
        groups: What the user gave: sequences of names or indices.
        columns: How many there are.

    Raises:
        DataError: for columns that are not there, or in two groups.
    """
    if groups is None:
        return None
    names = {name: place for place, name in enumerate(getattr(estimator, "feature_names_in_", ()))}
    each = groups if isinstance(groups, Iterable) and not isinstance(groups, str) else [groups]
    if any(isinstance(group, str) or not isinstance(group, Iterable) for group in each):
        raise DataError(f"fit: each group must be a list of columns, [['red', 'green'], [4, 5]], got {shown(groups)}")
    unknown = [c for group in groups for c in group if isinstance(c, str) and c not in names]
    if unknown:
        there = "" if names else "; the columns have no names, so give their indices"
        raise DataError(f"fit: groups: {unknown[0]!r} is no column{meant(unknown[0], names)}{there}")
    try:
        found = [[names[c] if isinstance(c, str) else _place(c, columns) for c in group] for group in groups]
    except (ConfigError, TypeError) as error:
        raise DataError(
            f"fit: groups must hold names or indices of columns, as [['red', 'green'], [4, 5]], got {shown(groups)} "
            f"({error})"
        ) from error
    named = [column for group in found for column in group]
    if len(set(named)) < len(named) or not all(found):
        raise DataError(f"fit: a column can be in one group only, and no group be empty, got {shown(groups)}")
    return found + [[column] for column in range(columns) if column not in named]


def _place(column: Any, columns: int) -> int:
    """Index of a column, which may be counted from the end."""
    return whole("an index", column, -columns, columns - 1) % columns


def counted(X: NDArray, y: NDArray, weights: NDArray) -> tuple[NDArray[np.float64], NDArray, NDArray[np.float64]]:
    """Rows of positive weight, and their weights with mean 1; shapes as in `check_examples`.

    Args:
        X: Inputs, shape ``(n, d)``.
        y: Targets, first dimension n.
        weights: Weights of the rows, shape ``(n,)``, not negative.

    Raises:
        DataError: for weights that are all zero.
    """
    if not weights.any():
        raise DataError("fit: the weights are zero for all rows, so that nothing is left to learn from")
    counts = weights > 0
    return X[counts], y[counts], weights[counts] / weights[counts].mean()


def weights_of_classes(class_weight: Mapping[Any, float] | str, y: NDArray) -> NDArray[np.float64]:
    """The weight of each row's class, shape ``(n,)``.

    Args:
        class_weight: ``balanced``, or a weight for each label.
        y: Labels, shape ``(n,)``.

    Raises:
        DataError: for weights that are negative or not finite, and for what says no weight of each class.
    """
    try:
        weights = compute_sample_weight(class_weight, y)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"fit: class_weight must be 'balanced', a dict from every label to a number, or None, got "
            f"{shown(class_weight)} ({error})"
        ) from error
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"fit: class_weight must be finite and not negative, got {weights[row]} for class {y[row]!r}")
    return weights


def _check_sizes(columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse numbers that cannot be standardised.

    Args:
        columns: By name, numbers that are finite.
    """
    for name, column in columns.items():
        largest = float(np.abs(column).max())
        if largest > LARGEST:
            raise DataError(
                f"fit: {name} has numbers as large as {largest:.0e}, whose squares overflow; expected at most "
                f"{LARGEST:.0e}, give it in other units"
            )


def _check_labels(y: NDArray) -> None:
    """Refuse labels that cannot be sorted, such as text where some rows have none.

    Args:
        y: Labels, shape ``(n,)``.
    """
    kinds = [type(label).__name__ for label in y] if y.dtype == object else []
    row = next((row for row, kind in enumerate(kinds) if kind != kinds[0]), None)
    if row is not None and ("str" in kinds or "NoneType" in kinds):
        raise DataError(
            f"fit: expected labels of one kind, found {shown(y[0])} in row 0 and {shown(y[row])} in row {row}; give "
            "all as text or all as numbers, and leave rows without a label out"
        )


def _check_weights(sample_weight: ArrayLike | None, rows: int) -> NDArray[np.float64]:
    """Weights of all rows, shape ``(rows,)``."""
    if sample_weight is None:
        return np.ones(rows)
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.shape != (rows,):
        raise DataError(f"fit: sample_weight must have one number a row, shape ({rows},), got shape {weights.shape}")
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise DataError(f"fit: sample_weight must not be negative, got {weights[row]} for row {row}")
    return weights


def _as_numbers(estimator: BaseEstimator, X: Any, **checks: Any) -> Any:
    """What `validate_data` gives; where it refuses, with the names of columns and the number of a row."""
    where, y = type(estimator).__name__, checks["y"] if checks.get("y_numeric") else None
    refused = dates(X, y)
    if refused:
        raise DataError(f"{where}: {refused}")
    try:
        found = validate_data(estimator, X, dtype=np.float64, order="C", **checks)
        return (found[0], found[1].astype(np.float64)) if checks.get("y_numeric") else found
    except (TypeError, ValueError) as error:
        said = explanation(X, y, error)
        if not said:
            raise
        kind = DataError if isinstance(error, ValueError) else TypeError  # the latter where scikit-learn demands it
        raise kind(f"{where}: {said}") from error
