"""Factors whose entries lie on a grid and whose product is near a tensor, by alternating directions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

STILL, PATIENCE = 1e-8, 3
"""Below which relative squares a factor has come to rest; after how many sweeps without a gain the search ends."""


def on_grid(values: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits equally spaced values, of which one is 0 and which reach to the largest in size.

    Args:
        values: Any.
        bits: How many.

    Examples:
        >>> on_grid(torch.tensor([0.1, -0.8, 1.5]), bits=2)  # steps of 2 * 1.5 / 3
        tensor([ 0., -1.,  1.])
    """
    step = (2 * values.abs().max() / (2**bits - 1)).clamp(min=1e-300)
    return (values / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step


def product(factors: Sequence[Tensor]) -> Tensor:
    """Σ_r of the outer products of column r of all factors: of two A Bᵀ, of three a canonical polyadic tensor.

    Args:
        factors: Shapes ``(n, R)``.
    """
    return torch.einsum(f"{','.join(f'{axis}z' for axis in 'abc'[: len(factors)])}->{'abc'[: len(factors)]}", *factors)


def without_grid(tensor: Tensor, rank: int, sweeps: int = 50) -> list[Tensor]:
    """Factors of a rank whose product is near: of a matrix the nearest, of three dimensions by alternating fits.

    The columns of all factors are of one length.

    Args:
        tensor: Of two or three dimensions, float64.
        rank: R.
        sweeps: How often each of three factors is fitted.

    Examples:
        >>> left, right = without_grid(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)), rank=1)
        >>> product([left, right]).round(decimals=6).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """
    if tensor.dim() == 2:
        left, sizes, right = torch.linalg.svd(tensor, full_matrices=False)
        root = sizes[:rank].sqrt()
        return [left[:, :rank] * root, right[:rank].T * root]
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, rank, generator=generator, dtype=tensor.dtype) for n in tensor.shape]
    for _ in range(sweeps):
        for place in range(3):
            gram, moved = _normal_equations(tensor, factors, place)
            ridge = 1e-9 * gram.diagonal().mean() * torch.eye(rank, dtype=gram.dtype)
            factors[place] = torch.linalg.solve(gram + ridge, moved.T).T
        factors = _balanced(factors)
    return factors


def _balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """The same product, columns of all factors of one length."""
    norms = [factor.norm(dim=0).clamp(min=1e-150) for factor in factors]
    common = reduce(torch.mul, norms) ** (1 / len(factors))
    return [factor * (common / norm) for factor, norm in zip(factors, norms, strict=True)]


def _normal_equations(tensor: Tensor, factors: Sequence[Tensor], place: int) -> tuple[Tensor, Tensor]:
    """G and F, by which the factor of least squares is F G⁻¹ when the others stay.

    Args:
        tensor: What the product is to be near.
        factors: All of them.
        place: Which is sought.
    """
    others = [factor for number, factor in enumerate(factors) if number != place]
    axes = "abc"[: tensor.dim()]
    left = [axis for number, axis in enumerate(axes) if number != place]
    rule = f"{axes},{','.join(f'{axis}z' for axis in left)}->{axes[place]}z"
    return reduce(torch.mul, [other.T @ other for other in others]), torch.einsum(rule, tensor, *others)


def quantised(
    tensor: Tensor, factors: Sequence[Tensor], bits: int, *, sweeps: int = 20, steps: int = 200
) -> tuple[list[Tensor], float]:
    """Factors with all entries on grids of 2^bits values, whose product is near a tensor.

    Args:
        tensor: The tensor.
        factors: To begin with, shapes ``(n, R)``.
        bits: Of each factor's grid.
        sweeps: How often each factor is sought.
        steps: The most that are taken for one.

    Returns:
        The nearest that were met, and the multiply-adds that it took; never farther than the first ones, rounded.

    Sources:
        Cherniuk, Abukhovich, Phan, Oseledets, Cichocki & Gusak 2023, "Quantization Aware Factorization for Deep Neural
        Network Compression": its splitting and penalty; that the best is kept is ours.
    """
    held = _balanced(factors)
    best = [on_grid(factor, bits) for factor in held]
    least, spent, rank = float((tensor - product(best)).norm()), 0.0, held[0].shape[1]
    duals, idle = [torch.zeros_like(factor) for factor in held], 0
    for _ in range(sweeps):
        for place in range(len(held)):
            gram, moved = _normal_equations(tensor, held, place)
            held[place], taken = _one_factor(gram, moved, held[place], duals[place], bits, steps)
            spent += tensor.numel() * float(rank) + taken * held[place].numel() * rank
        error = float((tensor - product(held)).norm())
        idle = 0 if error < least * (1 - 1e-5) else idle + 1  # also where it is not finite
        if error < least:
            best, least = [factor.clone() for factor in held], error
        if idle == PATIENCE:
            break
    return best, spent


def _one_factor(gram: Tensor, moved: Tensor, held: Tensor, dual: Tensor, bits: int, steps: int) -> tuple[Tensor, int]:
    """A factor on its grid, the others being as they are; ``dual`` is edited in place. Also the steps that it took.

    Args:
        gram: G.
        moved: F.
        held: The factor so far.
        dual: Its multipliers.
        bits: Of its grid.
        steps: The most that are taken.
    """
    rho = gram.diagonal().mean().clamp(min=1e-300)
    inverse = torch.linalg.inv(gram + rho * torch.eye(len(gram), dtype=gram.dtype))
    for taken in range(1, steps + 1):  # noqa: B007
        free = (moved + rho * (held + dual)) @ inverse
        before, held = held, on_grid(free - dual, bits)
        dual += held - free
        apart, change = (held - free).square().sum(), (held - before).square().sum()
        if float(apart) < STILL * float(held.square().sum()) and float(change) <= STILL * float(dual.square().sum()):
            break
    return held, taken
