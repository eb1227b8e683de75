"""The mean-field posterior of a spike-and-slab regression at its own optimum: what a perfect optimiser would find."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.arrays import as_tensor
from bayesprune.errors import ConfigError
from bayesprune.selection.regression import Regression, reduce

TOLERANCE, MAX_SWEEPS = 1e-9, 20_000


@dataclass(frozen=True)
class MeanField:
    """The best factorised approximation that was found; all tensors float64, on the CPU.

    Attributes:
        inclusion: Inclusion probability α_k of each input, shape ``(d,)``.
        mean: Mean of each coefficient ξ_k w_k, shape ``(d,)``.
        variance: Variance of each coefficient, shape ``(d,)``.
        log_evidence: The evidence lower bound, nats: at most log p(y).

    Examples:
        >>> from bayesprune.selection import sparse_regression
        >>> problem = sparse_regression(50, 4, 2, seed=0)
        >>> found = mean_field(problem.x, problem.y, inclusion=0.5)
        >>> bool(((found.inclusion > 0.5) == problem.support).all())
        True
    """

    inclusion: Tensor
    mean: Tensor
    variance: Tensor
    log_evidence: float


@checked_arguments
def mean_field(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    inclusion: Tensor | np.ndarray | float,
    slab_scale: float = 1.0,
    noise_scale: float = 1.0,
    intercept_scale: float = math.inf,
    starts: Tensor | np.ndarray | None = None,
) -> MeanField:
    """Coordinate ascent on q(ξ, w) = Π_k Bern(ξ_k; α_k) q(w_k | ξ_k) to its fixed point.

    Carbonetto & Stephens (2012), equations 8 to 11, with a slab that does not scale with the noise. q(w_k | ξ_k = 1) =
    Normal(μ_k, v_k); the intercept is integrated out. Where the inputs (centred, if the prior of the intercept is flat)
    are orthogonal the posterior factorises, and this is the answer of `enumerate_models`; elsewhere it is not, and
    there may be several fixed points: the ascent is made from several models at once, and the end with the highest
    bound is returned.

    Args:
        x: Inputs, shape ``(N, d)``, any d.
        y: Targets, shape ``(N,)``.
        inclusion: Prior inclusion probability, one for all inputs or shape ``(d,)``.
        slab_scale: Standard deviation of a coefficient that is in the model.
        noise_scale: Standard deviation of the noise.
        intercept_scale: Standard deviation of the intercept: 0 for none, infinite for a flat prior.
        starts: Models to start from, at the coefficients that they have on their own, bool, shape ``(starts, d)``; by
            default the one without inputs and the one with all. `ExactPosterior.models` makes the search complete.

    Raises:
        ConfigError: for scales, probabilities or starts out of their range, or if an ascent is not at its end after
            20,000 sweeps.
        DataError: for inputs or targets that are empty, do not fit together or are not finite.
    """
    problem = reduce(
        x,
        y,
        inclusion=inclusion,
        slab_scale=slab_scale,
        noise_scale=noise_scale,
        intercept_scale=intercept_scale,
    )
    variance = 1 / (problem.gram.diagonal() + problem.slab_scale**-2)
    alpha, mu = _ascend(problem, variance, _starts(starts, problem.num_inputs))
    bounds = _bound(problem, alpha, mu, variance)
    best = int(bounds.argmax())
    return MeanField(
        inclusion=alpha[best],
        mean=alpha[best] * mu[best],
        variance=_spread(alpha[best], mu[best], variance),
        log_evidence=float(bounds[best]),
    )


def _starts(starts: Tensor | np.ndarray | None, num_inputs: int) -> Tensor:
    """Models to start from as zeros and ones."""
    if starts is None:
        return torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, num_inputs)
    starts = as_tensor(starts, "mean_field: starts")
    if starts.dtype != torch.bool or starts.dim() != 2 or len(starts) == 0 or starts.shape[1] != num_inputs:
        raise ConfigError(
            f"mean_field: expected starts of shape (starts, {num_inputs}), bool, one row a model, got {starts.dtype} "
            f"of shape {tuple(starts.shape)}; leave them out for the usual ones"
        )
    return starts.to("cpu", torch.float64)


def _ascend(problem: Regression, variance: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """α and μ at the ends of the ascents from the models ``on``, shape ``(starts, d)`` each."""
    odds = torch.logit(problem.inclusion) + variance.log() / 2 - math.log(problem.slab_scale)
    mu = torch.linalg.solve(problem.systems(on), problem.slab_scale**2 * problem.cross * on)
    alpha, coefficients = on.clone(), mu.clone()
    for _ in range(MAX_SWEEPS):
        before = torch.stack([alpha, coefficients / problem.slab_scale])
        for k in range(problem.num_inputs):
            others = coefficients @ problem.gram[k] - coefficients[:, k] * problem.gram[k, k]
            mu[:, k] = variance[k] * (problem.cross[k] - others)
            alpha[:, k] = torch.sigmoid(odds[k] + mu[:, k].square() / (2 * variance[k]))
            coefficients[:, k] = alpha[:, k] * mu[:, k]
        moved = float((torch.stack([alpha, coefficients / problem.slab_scale]) - before).abs().max())
        if moved <= TOLERANCE:
            return alpha, mu
    raise ConfigError(
        f"mean_field: the ascent is not at its end after {MAX_SWEEPS} sweeps, the last one moved an inclusion "
        f"probability or a coefficient by {moved:.1e}; drop inputs that are nearly collinear"
    )


def _spread(alpha: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
    """Variances of the coefficients ξ_k w_k."""
    return alpha * (variance + (1 - alpha) * mu.square())


def _bound(problem: Regression, alpha: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
    """The evidence lower bound of each row, nats."""
    coefficients = alpha * mu
    squared = (coefficients @ problem.gram * coefficients).sum(1)
    squared = squared + _spread(alpha, mu, variance) @ problem.gram.diagonal()
    fit = problem.log_evidence + coefficients @ problem.cross - squared / 2
    precision = problem.slab_scale**-2
    slab = ((variance + mu.square()) * precision - (variance * precision).log() - 1) / 2
    on = torch.xlogy(alpha, alpha) - torch.xlogy(alpha, problem.inclusion)
    off = torch.xlogy(1 - alpha, 1 - alpha) - torch.special.xlog1py(1 - alpha, -problem.inclusion)
    return fit - (on + off + alpha * slab).sum(1)
