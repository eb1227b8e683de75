"""Weights of at most k entries that are not 0: exactly as far as that can be done, and by pursuit beyond."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from torch import Tensor

ROUNDING, RIDGE = 1e-10, 1e-9
"""By which share errors have to differ to count, and what is added to squares, relative to their mean."""
SHOWN, FAR = 1e-6, 16.0
"""Which share of an error linear programs miss, and M in units of the largest entry known, where it has no bound."""
COLUMNS = 10_000_000
"""How many numbers the systems hold that are solved at once."""


class Found(NamedTuple):
    """Sparse weights.

    Attributes:
        weights: One column an output.
        gap: By output, how much of the error is not shown to be necessary: 0 for the best weights, 1 if nothing is.
        spent: Multiply-adds.

    Examples:
        >>> Found(torch.ones(2, 1), torch.zeros(1), 8.0).gap
        tensor([0.])
    """

    weights: Tensor
    gap: Tensor
    spent: float


def best_subsets(gram: Tensor, cross: Tensor, squares: Tensor, size: int, nodes: int = 5000) -> Found:
    """The w of at most ``size`` entries with the least ‖u − X w‖², for each column u, by branch and bound.

    What is left out of a set raises its error by what is known beforehand, and no subset has a smaller error.

    Args:
        gram: XᵀX, shape ``(n, n)``, float64.
        cross: XᵀU, shape ``(n, m)``.
        squares: ‖u‖², shape ``(m,)``.
        size: The most entries.
        nodes: How many sets are looked at for a column at most.

    Examples:
        >>> x = torch.tensor([[1.0, 0.9], [0.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
        >>> u = torch.tensor([[1.0], [0.1], [0.0]], dtype=torch.float64)
        >>> best_subsets(x.T @ x, x.T @ u, (u * u).sum(0), size=1).weights.flatten().round(decimals=6).tolist()
        [1.0, 0.0]
    """
    table = _ridged(gram).numpy()
    found = [_best_subset(table, c, float(s), size, nodes) for c, s in zip(cross.T.numpy(), squares, strict=True)]
    weights, gaps, spent = zip(*found, strict=True)
    return Found(torch.from_numpy(np.stack(weights, 1)), torch.tensor(gaps), sum(spent))


def _best_subset(gram: np.ndarray, cross: np.ndarray, square: float, size: int, nodes: int) -> tuple:
    """Weights, gap and multiply-adds for one column, see `best_subsets`."""
    best, weights, spent = np.inf, np.zeros(len(gram)), 0.0
    open_sets: list[tuple[float, list[int], list[int]]] = [(0.0, [], list(range(len(gram))))]
    while open_sets and nodes:
        bound, kept, free = open_sets.pop()
        if bound >= best * (1 - ROUNDING):
            continue
        nodes -= 1
        some = kept if len(kept) == size else kept + free
        inverse = np.linalg.inv(gram[np.ix_(some, some)])
        solution = inverse @ cross[some]
        error = max(square - cross[some] @ solution, 0.0)
        spent += float(len(some)) ** 3
        if len(some) <= size:
            if error < best:
                best, weights = error, np.zeros(len(gram))
                weights[some] = solution
            continue
        rises = (solution**2 / np.diag(inverse))[len(kept) :]
        least = np.sort(rises)[len(some) - size - 1]  # so many have to go, and the worst of them raises by that
        if error + least >= best * (1 - ROUNDING):
            continue
        place = int(rises.argmax())
        others = free[:place] + free[place + 1 :]
        open_sets.append((error + rises[place], kept, others))
        open_sets.append((error + least, [*kept, free[place]], others))
    shown = min((bound for bound, *_ in open_sets), default=best)
    return weights, max(0.0, best - shown) / best if best > 0 and np.isfinite(best) else 0.0, spent


def pursued(gram: Tensor, cross: Tensor, squares: Tensor, size: int, start: Tensor, steps: int = 30) -> Found:
    """As `best_subsets`, by pursuit: entries are those of the largest size after a step down the error, then re-fitted.

    Where the error would rise, the step is halved. What is found is the best of a neighbourhood, not of all.

    Args:
        gram: XᵀX, shape ``(n, n)``.
        cross: XᵀU, shape ``(n, m)``.
        squares: ‖u‖², shape ``(m,)``.
        size: The entries of each column.
        start: Weights to begin with, shape ``(n, m)``: of each column the entries that matter most.
        steps: The most that are taken.

    Examples:
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> u = torch.tensor([[3.0], [2.0], [1.0]], dtype=torch.float64)
        >>> pursued(x, u, (u * u).sum(0), 2, torch.zeros(3, 1)).weights.flatten().round(decimals=6).tolist()
        [3.0, 2.0, 0.0]
    """
    gram = _ridged(gram)
    scale = gram.diagonal().sqrt()[:, None]
    length = torch.ones_like(squares)
    weights, error = _fitted(gram, cross, squares, (start * scale).abs().topk(size, dim=0).indices)
    taken, (n, m) = 1, cross.shape
    for _ in range(steps):
        moved = weights * scale + length * (cross - gram @ weights) / scale
        tried, left = _fitted(gram, cross, squares, moved.abs().topk(size, dim=0).indices)
        better = left < error * (1 - ROUNDING)
        weights, error = torch.where(better, tried, weights), torch.where(better, left, error)
        length = torch.where(better, length, length / 2)
        taken += 1
        if not bool((better | (length > 1 / 8)).any()):
            break
    bound = (squares - (cross * torch.linalg.solve(gram, cross)).sum(0)).clamp(min=0)
    gap = ((error - bound) / error.clamp(min=1e-300)).clamp(0, 1)
    return Found(weights, gap, float(taken) * m * (size**3 / 3 + n * n))


def _ridged(gram: Tensor) -> Tensor:
    """Products of inputs with next to nothing on the diagonal, for inputs that are constant or multiples of others."""
    return gram + RIDGE * gram.diagonal().mean().clamp(min=1e-300) * torch.eye(len(gram), dtype=gram.dtype)


def _fitted(gram: Tensor, cross: Tensor, squares: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares with these entries of each column, and the errors.

    Args:
        gram: XᵀX.
        cross: XᵀU.
        squares: ‖u‖².
        entries: Indices, shape ``(size, m)``.
    """
    weights = torch.zeros_like(cross)
    for some in _pieces(entries.shape[1], len(entries)):
        rows = entries[:, some].T
        table = gram[rows[:, :, None], rows[:, None, :]]
        solved = torch.linalg.solve(table, cross[:, some].gather(0, entries[:, some]).T[..., None])[..., 0]
        weights[:, some] = weights[:, some].scatter(0, entries[:, some], solved.T)
    return weights, (squares - (cross * weights).sum(0)).clamp(min=0)


def _pieces(columns: int, size: int) -> Iterator[slice]:
    """Columns in pieces whose systems fit into memory."""
    step = max(1, COLUMNS // size**2)
    return (slice(first, first + step) for first in range(0, columns, step))


def one_sided(x: np.ndarray, y: np.ndarray, size: int, bias: bool, nodes: int = 200) -> tuple[np.ndarray, float, int]:
    """The w of at most ``size`` entries with the least Σ ξ: |wᵀx − y| ≤ ξ where y > 0, wᵀx ≤ ξ where y = 0; by HiGHS.

    Each entry of the mixed program is at most M in size, which is how large it can be in any w, of whatever number of
    entries, whose error is no more than that of a first set. Where it may be of any size, nothing but the error of all
    entries together is known to be necessary.

    Args:
        x: Shape ``(P, n)``; with ``bias`` the last column is 1, and its weight does not count.
        y: What a unit gave behind a ReLU, shape ``(P,)``.
        size: The most entries.
        bias: Whether there is one.
        nodes: How many nodes are looked at at most.

    Returns:
        The weights, shape ``(n,)``; the gap, 0 for the best; and the nodes, of which each linear program is one.

    Examples:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> one_sided(x, np.array([2.0, 0.0, 0.0]), 1, bias=False)[0].round(6).tolist()
        [2.0, 0.0]
    """
    n, free = x.shape[1], x.shape[1] - bias
    every, necessary = _one_sided_fit(x, y, np.ones(n, dtype=bool))
    largest = np.argsort(-np.abs(every * np.linalg.norm(x, axis=0))[:free])[:size]
    weights, error = _one_sided_fit(x, y, np.isin(np.arange(n), largest) | (np.arange(n) >= free))
    looked = 2
    if error - necessary > ROUNDING * y.sum():
        reach = _reaches(x, y, free, error)
        shown = bool(np.isfinite(reach).all())
        scale = max(np.abs(np.append(every, weights)).max(), np.abs(np.linalg.lstsq(x, y, rcond=None)[0]).max())
        found = _mixed(x, y, size, np.where(np.isfinite(reach), reach, FAR * scale), nodes)
        looked += 2 * free + (found.mip_node_count or 1)
        if found.x is not None:
            there = np.append(found.x[-free:] > 0.5, np.ones(n - free, dtype=bool))
            weights, error = min((weights, error), _one_sided_fit(x, y, there), key=lambda fit: fit[1])
            looked += 1
        if shown and found.mip_dual_bound is not None:
            necessary = max(necessary, found.mip_dual_bound)
    gap = (error - necessary) / error if error > ROUNDING * y.sum() else 0.0
    return weights, gap if gap > SHOWN else 0.0, looked


def _one_sided_table(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of what (w, ξ) of `one_sided` are multiplied by, and what each may give at most."""
    errors, on = np.eye(len(x)), y > 0
    return np.vstack([np.hstack([x, -errors]), np.hstack([-x, -errors])[on]]), np.concatenate([y, -y[on]])


def _one_sided_fit(x: np.ndarray, y: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, float]:
    """The w of `one_sided` that has these entries alone, and its error.

    Args:
        x: What goes in.
        y: What should come out.
        there: Which entries, bool.
    """
    weights = np.zeros(x.shape[1])
    rows, ends = _one_sided_table(x[:, there], y)
    bounds = [(None, None)] * int(there.sum()) + [(0, None)] * len(x)
    found = linprog(np.repeat([0.0, 1.0], [there.sum(), len(x)]), A_ub=rows, b_ub=ends, bounds=bounds)
    if found.x is not None:
        weights[there] = found.x[: there.sum()]
    given = x @ weights
    return weights, float(np.where(y > 0, np.abs(given - y), np.maximum(given, 0)).sum())


def _reaches(x: np.ndarray, y: np.ndarray, free: int, error: float) -> np.ndarray:
    """How large each of the first entries can be where Σ ξ is no more than an error, infinite if that is not known.

    Entries of inputs that are 0 throughout change nothing, and need not be there.

    Args:
        x: What goes in.
        y: What should come out.
        free: How many entries.
        error: The error.
    """
    (count, n), (rows, ends) = x.shape, _one_sided_table(x, y)
    rows, ends = np.vstack([rows, np.repeat([0.0, 1.0], [n, count])]), np.append(ends, error * (1 + SHOWN))
    bounds = [(None, None)] * n + [(0, None)] * count
    sizes = []
    for sign, entry in itertools.product((-1.0, 1.0), range(free)):
        found = linprog(sign * np.eye(n + count)[entry], A_ub=rows, b_ub=ends, bounds=bounds)
        sizes.append(abs(found.fun) if found.status == 0 else np.inf if x[:, entry].any() else 0.0)
    return np.array(sizes).reshape(2, free).max(0) * (1 + SHOWN)


def _mixed(x: np.ndarray, y: np.ndarray, size: int, reach: np.ndarray, nodes: int) -> OptimizeResult:
    """What HiGHS finds of (w, ξ, which entries there are).

    Args:
        x: What goes in.
        y: What should come out.
        size: The most entries.
        reach: M of each entry.
        nodes: How many nodes are looked at at most.
    """
    (count, n), free, (table, ends) = x.shape, len(reach), _one_sided_table(x, y)
    entries, there = np.eye(n + count + free)[:free], np.eye(n + count + free)[n + count :]
    limits = reach[:, None] * there
    rows = np.vstack([np.pad(table, ((0, 0), (0, free))), entries - limits, -entries - limits, there.sum(0)])
    whole = there.sum(0)
    return milp(
        np.repeat([0.0, 1.0, 0.0], [n, count, free]),
        constraints=LinearConstraint(rows, ub=np.concatenate([ends, np.zeros(2 * free), [size]])),
        bounds=Bounds(np.repeat([-np.inf, 0.0], [n, count + free]), np.where(whole, 1, np.inf)),
        integrality=whole,
        options={"node_limit": nodes, "mip_rel_gap": 0.0},
    )
