"""Knock-offs: copies of the columns that say nothing of the targets, against which the false discovery rate is held."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.arrays import as_tensor
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError, DataError
from bayesprune.selection.problems import LARGEST_SEED

Importance = Callable[[Tensor, Tensor], Any]
"""From a table ``(N, 2d)`` and targets to one number a column, the larger the more it matters."""

ROUNDING = 1e-12
"""Relative to the size of its numbers, a spread at most this large is rounding: the column is constant."""


class Filtered(NamedTuple):
    """What a knock-off filter chose.

    Attributes:
        selected: Columns that were chosen, bool, shape ``(d,)``.
        statistics: By how much each group of columns, in the order of the groups, matters more than its knock-offs.
        threshold: The least statistic that was chosen; infinite if none was.

    Examples:
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> found = knockoff_filter(x, x[:, 0], lambda both, y: torch.zeros(4))
        >>> found.selected, found.threshold
        (tensor([False, False]), inf)
    """

    selected: Tensor
    statistics: Tensor
    threshold: float


@checked_arguments
def knockoffs(x: Tensor | np.ndarray, *, groups: Sequence[Sequence[int]] | None = None, seed: int = 0) -> Tensor:
    """Second-order Gaussian knock-offs of a table (Candès, Fan, Janson & Lv 2018, section 3.4.1).

    Means, and covariances with everything but the original of the same group, are those of the columns, and targets
    were not looked at. Covariances are shrunk (Ledoit & Wolf 2004), so there may be more columns than rows, though what
    is then known of the covariances holds no rate, and there is a warning. Groups have S = γ Σ within and 0 between
    them (Dai & Barber 2016), γ as large as it may be; single columns are groups of one.

    Args:
        x: Table, shape ``(N, d)``, N at least 2.
        groups: Columns that go together, every column in one group; ``None`` for each by itself.
        seed: Seeds the draw; the generator of torch is left alone.

    Returns:
        Shape ``(N, d)``, in the dtype of ``x``; float64 for whole numbers.

    Raises:
        ConfigError: for groups that leave columns out or share them.
        DataError: for tables of other shapes, that are not finite, or with columns that are constant.
    """
    from sklearn.covariance import ledoit_wolf  # slow to import

    seed, x = whole("knockoffs: seed", seed, 0, LARGEST_SEED), as_tensor(x, "knockoffs: x")
    if x.dim() != 2 or len(x) < 2 or not x.numel() or not bool(x.isfinite().all()):
        raise DataError(f"knockoffs: expected a table of finite numbers, 2 rows or more, got shape {tuple(x.shape)}")
    label = _labels(x.shape[1], groups)
    columns = x.detach().to("cpu", torch.float64)
    mean, spread = columns.mean(0), columns.std(0, correction=0)
    _check_columns(columns, spread)
    standardised = (columns - mean) / spread
    sigma = torch.from_numpy(ledoit_wolf(standardised.numpy())[0])
    within = torch.where(label[:, None] == label, sigma, 0.0)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ (values.clamp(min=1e-12).rsqrt()[:, None] * vectors.T)
    least = float(torch.linalg.eigvalsh(root @ sigma @ root)[0])
    s = min(1.0, 2 * max(least, 0.0)) * within
    pull = torch.linalg.solve(sigma + 1e-9 * torch.eye(len(sigma), dtype=sigma.dtype), s)
    values, vectors = torch.linalg.eigh(2 * s - s @ pull)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(columns.shape, dtype=torch.float64, generator=generator)
    noise = noise @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    return ((standardised - standardised @ pull + noise) * spread + mean).to(x if x.is_floating_point() else columns)


@checked_arguments
def knockoff_filter(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    importance: Importance,
    *,
    fdr: float = 0.2,
    groups: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> Filtered:
    """Columns that matter more than their knock-offs, at a false discovery rate of at most ``fdr``.

    ``importance`` looks at the table beside its knock-offs, in random order, so that it cannot know which is which.
    W = importance of a column − that of its knock-off; what says nothing has W of either sign alike, so the number of
    large negative ones tells how many of the large positive ones are false (knock-off+, Barber & Candès 2015). The rate
    holds whatever ``importance`` is, as far as the columns are Gaussian with these covariances. With k columns that
    matter it takes ``fdr`` ≥ 1/k to choose any.

    Args:
        x: Table, shape ``(N, d)``.
        y: Targets, first dimension N.
        importance: Called once, with tensors: a table of shape ``(N, 2d)`` and ``y``; gives a tensor, array or list of
            2d numbers, such as inclusion probabilities.
        fdr: Level, in (0, 1).
        groups: Columns that go together (one-hot columns of one category, say), every column in one; their importances
            are added up, and the rate is that of groups.
        seed: Seeds the knock-offs and their order.

    Raises:
        ConfigError: for a level outside (0, 1), groups that leave columns out, or an importance of other shape.
        DataError: for tables that are not finite, have constant columns or do not fit the targets.

    Examples:
        >>> from bayesprune.selection import sparse_regression
        >>> problem = sparse_regression(300, 20, 10, seed=1)
        >>> found = knockoff_filter(problem.x, problem.y, lambda x, y: (x.T @ y).abs(), fdr=0.2)
        >>> bool(found.selected[problem.support].float().mean() > 0.5)
        True
    """
    fdr = real("knockoff_filter: fdr", fdr, 0, 1, hint="0.1 to 0.2 are usual")
    x, y = as_tensor(x, "knockoff_filter: x"), as_tensor(y, "knockoff_filter: y")
    if not x.dim() or y.shape[:1] != x.shape[:1]:
        raise DataError(
            f"knockoff_filter: a table of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)} do not go "
            "together; there must be equally many rows"
        )
    both = torch.cat((x, knockoffs(x, groups=groups, seed=seed)), 1)
    order = torch.randperm(both.shape[1], generator=torch.Generator().manual_seed(seed))
    found = torch.as_tensor(importance(both[:, order], y), dtype=torch.float64).detach().cpu()
    if found.shape != (both.shape[1],) or bool(found.isnan().any()):
        raise ConfigError(
            f"knockoff_filter: importance must give one number for each of {both.shape[1]} columns, got shape "
            f"{tuple(found.shape)} or NaN"
        )
    real_ones, copies = torch.empty_like(found).index_copy_(0, order, found).chunk(2)
    label = _labels(x.shape[1], groups)
    statistics = torch.zeros(int(label.max()) + 1, dtype=torch.float64).index_add_(0, label, real_ones - copies)
    threshold = _threshold(statistics, fdr)
    return Filtered((statistics >= threshold)[label].to(x.device), statistics, threshold)


def _check_columns(columns: Tensor, spread: Tensor) -> None:
    """Refuse columns that are constant, which have no knock-offs, and warn of fewer rows than columns.

    Args:
        columns: The table, float64.
        spread: The standard deviation of each column.
    """
    rows, count = columns.shape
    constant = (spread <= ROUNDING * columns.abs().amax(0)).nonzero()[:, 0].tolist()
    if constant:
        more = f" (of {len(constant)} such columns the first)" if len(constant) > 1 else ""
        raise DataError(f"knockoffs: column {constant[0]}{more} is constant, so that it can say nothing; leave it out")
    if rows < count:
        warnings.warn(
            f"knockoffs: {rows} rows do not tell how {count} columns vary together, so no false discovery rate is "
            "held; take more rows, or fewer columns",
            stacklevel=4,
        )


def _threshold(statistics: Tensor, fdr: float) -> float:
    """The least t of the |W| with (1 + how many are ≤ −t) / (how many are ≥ t) ≤ fdr; infinite if there is none.

    Args:
        statistics: W.
        fdr: The level.
    """
    for t in statistics.abs().unique().tolist():
        if t > 0 and (1 + int((statistics <= -t).sum())) <= fdr * int((statistics >= t).sum()):
            return t
    return float("inf")


def _labels(columns: int, groups: Sequence[Sequence[int]] | None) -> Tensor:
    """The group of each column, shape ``(columns,)``.

    Args:
        columns: How many there are.
        groups: Which go together.
    """
    if groups is None:
        return torch.arange(columns)
    members = [whole("groups: a column", column, 0, columns - 1) for group in groups for column in group]
    if sorted(members) != list(range(columns)):
        raise ConfigError(
            f"groups: each of {columns} columns must be in one group and only one, got {len(members)} entries; give a "
            "column that goes with no other a group of its own"
        )
    label = torch.empty(columns, dtype=torch.long)
    for number, group in enumerate(groups):
        label[torch.tensor([int(column) for column in group], dtype=torch.long)] = number
    return label.unique(return_inverse=True)[1]
