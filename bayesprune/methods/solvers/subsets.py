"""Weights of at most k entries that are not 0: exactly as far as that can be done, and by pursuit beyond."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

ROUNDING, RIDGE = 1e-10, 1e-9
"""By which share errors have to differ to count, and what is added to squares, relative to their mean."""
COLUMNS = 10_000_000
"""How many numbers the systems hold that are solved at once."""


class Found(NamedTuple):
    """Sparse weights.

    Attributes:
        weights: One column an output.
        gap: By output, how much of the error is not shown to be necessary: 0 for the best weights, 1 if nothing is.
        spent: Multiply-adds.

    Example:
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

    Example:
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

    Example:
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

    Entries are at most M in size, which is doubled until the answer does not touch it.

    Args:
        x: Shape ``(P, n)``; with ``bias`` the last column is 1, and its weight does not count.
        y: What a unit gave behind a ReLU, shape ``(P,)``.
        size: The most entries.
        bias: Whether there is one.
        nodes: How many nodes are looked at at most, for each M.

    Returns:
        The weights, shape ``(n,)``; the gap, 0 for the best; and the nodes.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> one_sided(x, np.array([2.0, 0.0, 0.0]), 1, bias=False)[0].round(6).tolist()
        [2.0, 0.0]
    """
    (count, n), free = x.shape, x.shape[1] - bias
    parts = np.split(np.eye(n + count + free), [n, n + count])  # rows that pick w, ξ, and which entries there are
    whole = parts[2].sum(0)
    bounds = Bounds(np.where(parts[0].sum(0), -np.inf, 0.0), np.where(whole, 1, np.inf))
    looked, scale = 0, max(1e-12, float(np.abs(np.linalg.lstsq(x, y, rcond=None)[0]).max()))
    for largest in scale * 2.0 ** np.arange(1, 12):
        limits = _limits(x, y, size, parts, largest)
        options = {"node_limit": nodes, "mip_rel_gap": 0.0}
        found = milp(parts[1].sum(0), constraints=limits, bounds=bounds, integrality=whole, options=options)
        looked += found.mip_node_count or 1
        if found.x is None:
            return np.zeros(n), 1.0, looked
        weights, there = found.x[:n], found.x[n + count :] > 0.5
        weights[:free] *= there
        if np.abs(weights[:free]).max() < 0.999 * largest:
            break
    return weights, float(found.mip_gap or 0.0), looked


def _limits(x: np.ndarray, y: np.ndarray, size: int, parts: list[np.ndarray], largest: float) -> LinearConstraint:
    """The constraints of `one_sided`, rows of what may be at most.

    Args:
        x: What goes in.
        y: What should come out.
        size: The most entries.
        parts: Rows that pick w, ξ, and which entries there are.
        largest: M.
    """
    weights, errors, there = parts
    given, on = x @ weights, y > 0
    entries = weights[: len(there)]
    rows = [given - errors, (-given - errors)[on], entries - largest * there, -entries - largest * there]
    ends = [y, -y[on], np.zeros(2 * len(there)), np.array([float(size)])]
    return LinearConstraint(np.vstack([*rows, there.sum(0)]), ub=np.concatenate(ends))
