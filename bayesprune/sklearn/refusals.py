"""What stands in a table that cannot be learned from, by name of the column and number of the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

SHOWN = 5
"""How many columns an error names."""
DATES = ("m", "M")
"""Kinds of numpy's of times and dates, which it would read as how many nanoseconds they are."""


def dates(X: Any, y: Any) -> str:
    """Which columns hold dates, which are no numbers; nothing if none do.

    Args:
        X: A table, as a user gives it.
        y: Its targets, if they are to be numbers.
    """
    kinds = X.dtypes if _is_frame(X) else [X.dtype] * X.shape[1] if isinstance(X, np.ndarray) and X.ndim == 2 else []
    found = [name for name, kind in zip(_names(X, len(kinds)), kinds, strict=True) if _is_date(kind)]
    if found:
        return f"expected columns of numbers, but there are dates in {_listed(found)}; give numbers, such as days"
    if _is_date(getattr(y, "dtype", None)):
        return "expected targets y that are numbers, but they are dates; give numbers, such as days"
    return ""


def explanation(X: Any, y: Any, error: Exception) -> str:
    """What is said of a table that scikit-learn refused: which column and row, and what to try; nothing if unknown.

    Args:
        X: The table.
        y: Its targets, if they are to be numbers.
        error: The refusal.
    """
    text = str(error)
    if "could not convert" in text or "float() argument" in text:
        columns = _faults(np.asarray(X, dtype=object), X, _no_number)
        if columns:
            return (
                f"expected columns of numbers, but {_listed(columns)} cannot be read as such ({error}); encode them, "
                "for instance with OneHotEncoder in a ColumnTransformer, or leave them out"
            )
        rows = () if y is None else enumerate(np.asarray(y, dtype=object))
        wrong = next((row for row, of_row in rows if _no_number(np.atleast_1d(of_row)) is not None), None)
        return "" if wrong is None else f"expected targets y that are numbers, but row {wrong} has none ({error})"
    if "Input X contains" in text:
        columns = _faults(check_array(X, dtype=np.float64, ensure_all_finite=False), X, _not_finite)
        return (
            f"expected finite numbers, but {_listed(columns)}; impute what is missing, for instance with SimpleImputer "
            "in a Pipeline, or leave it out"
        )
    return ""


def _faults(cells: NDArray, X: Any, fault: Callable[[NDArray], str | None]) -> list[str]:
    """Names of the columns that have a fault, and what is said of it.

    Args:
        cells: The table as an array.
        X: The table as it was given.
        fault: What is wrong with a column: ``None`` for nothing.
    """
    if cells.ndim != 2:
        return []
    faults = zip(_names(X, cells.shape[1]), map(fault, cells.T), strict=True)
    return [name + said for name, said in faults if said is not None]


def _no_number(column: NDArray) -> str | None:
    try:
        column.astype(np.float64)
    except (TypeError, ValueError):
        return ""
    return None


def _not_finite(column: NDArray) -> str | None:
    wrong = ~np.isfinite(column)
    row = int(np.argmax(wrong))
    value = "NaN" if np.isnan(column[row]) else "infinity"
    return f" has {value} in row {row}" if wrong.any() else None


def _is_date(kind: Any) -> bool:
    return getattr(kind, "kind", None) in DATES


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def _names(X: Any, columns: int) -> list[str]:
    """What the columns of a table are called: by their names, or else by their numbers."""
    return [repr(name) for name in X.columns] if _is_frame(X) else [f"column {k}" for k in range(columns)]


def _listed(names: list[str]) -> str:
    """The first of several, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
