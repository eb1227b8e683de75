"""Which inputs act together: mixed differences of a prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.arrays import as_tensor
from bayesprune.checked import whole
from bayesprune.errors import ConfigError, DataError
from bayesprune.selection.problems import LARGEST_SEED


@checked_arguments
def interactions(
    predict: Callable[[Tensor], Any],
    x: Tensor | np.ndarray,
    *,
    inputs: Sequence[int | Sequence[int]] | None = None,
    num_rows: int = 512,
    seed: int = 0,
) -> Tensor:
    """How much of a prediction's variance goes through pairs of inputs, and through each input at all.

    Off the diagonal ¼ E[(f(x) − f(x with x_j of another row) − f(x with x_k of it) + f(x with both))²], which is the
    variance of all that no sum of a function without x_j and one without x_k can say (the superset importance of Liu &
    Owen 2006), and 0 where the two only add up. On the diagonal ½ E[(f(x) − f(x with x_j of another row))²] (Jansen
    1999). All in units of the variance of f(x). They are about the inputs as if these were independent: of columns that
    say the same, rows are mixed that do not occur.

    Args:
        predict: The mean prediction of a table, shape ``(n, d)`` to ``(n,)`` or ``(n, 1)``: an estimator's ``predict``,
            for instance; a tensor or an array. It is given a tensor.
        x: Rows from which values are taken, shape ``(N, d)``.
        inputs: Which columns to look at, k of them: those that were selected, say; ``None`` for all. A list in place
            of a column, ``[[0, 1, 2], 3]``, holds columns that change together, such as the one-hot columns of a
            category. It takes 1 + k(k + 1)/2 predictions.
        num_rows: How many pairs of rows are compared; the standard error falls with its root.
        seed: Seeds their choice.

    Returns:
        Symmetric, float64, shape ``(k, k)``, in the order of ``inputs``.

    Raises:
        ConfigError: for columns that do not exist, or are named twice.
        DataError: for tables of another shape, and predictions that are not one finite number a row or all the same.

    Examples:
        >>> x = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
        >>> found = interactions(lambda x: x[:, 0] * x[:, 1] + x[:, 2], x)
        >>> found[0, 1] > 0.03, found[0, 2] < 1e-9
        (tensor(True), tensor(True))
    """
    x = as_tensor(x, "interactions: x")
    if x.dim() != 2 or len(x) < 2:
        raise DataError(f"interactions: expected a table of 2 rows or more, got shape {tuple(x.shape)}")
    num_rows = whole("interactions: num_rows", num_rows, 2)
    seed = whole("interactions: seed", seed, 0, LARGEST_SEED)
    parts = _parts(range(x.shape[1]) if inputs is None else inputs, x.shape[1])
    generator = torch.Generator().manual_seed(seed)
    first, second = (x[torch.randint(len(x), (num_rows,), generator=generator)] for _ in range(2))

    def changed(columns: list[int]) -> Tensor:
        mixed = first.clone()
        mixed[:, columns] = second[:, columns]
        return _numbers(predict(mixed), num_rows)

    base, single = changed([]), [changed(part) for part in parts]
    variance = float(base.var())
    if not variance > 0:
        raise DataError("interactions: all predictions are the same, so that no input has a share of their variance")
    found = torch.diag(torch.stack([0.5 * (base - each).square().mean() for each in single]))
    for a, b in combinations(range(len(parts)), 2):
        mixed = base - single[a] - single[b] + changed(parts[a] + parts[b])
        found[a, b] = found[b, a] = 0.25 * mixed.square().mean()
    return found / variance


def _parts(inputs: Sequence[int | Sequence[int]], columns: int) -> list[list[int]]:
    """The columns of each input.

    Args:
        inputs: Columns, or lists of those that change together.
        columns: How many there are.
    """
    each = [list(part) if isinstance(part, Sequence) else [part] for part in inputs]
    parts = [[whole("interactions: an input", column, 0, columns - 1) for column in part] for part in each]
    named = [column for part in parts for column in part]
    if not parts or not all(parts) or len(set(named)) < len(named):
        raise ConfigError("interactions: inputs must name one column or more, each once")
    return parts


def _numbers(predicted: Any, rows: int) -> Tensor:
    """Predictions as float64, shape ``(rows,)``.

    Args:
        predicted: What a user's function gave.
        rows: For how many rows.
    """
    values = torch.as_tensor(predicted).detach().to("cpu", torch.float64)
    if values.numel() != rows or len(values) != rows or not bool(values.isfinite().all()):
        raise DataError(
            f"interactions: predict must give one finite number for each of {rows} rows, got shape "
            f"{tuple(values.shape)}; of several outputs choose one"
        )
    return values.reshape(rows)
