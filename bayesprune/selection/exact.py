"""The exact posterior of a small spike-and-slab regression: the oracle that every approximation is held to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.selection.regression import Regression, reduce

MAX_INPUTS = 12
"""The largest number of inputs whose models are enumerated, 4096 of them."""


@dataclass(frozen=True)
class ExactPosterior:
    """What the enumeration of all models of d inputs gives; all tensors float64, on the CPU.

    Attributes:
        models: Which inputs each model has, bool, shape ``(2^d, d)``; model m has input k if bit k of m is 1.
        log_evidences: log p(y | model), shape ``(2^d,)``, nats.
        probabilities: Posterior probability of each model, shape ``(2^d,)``.
        inclusion: Posterior inclusion probability of each input, shape ``(d,)``.
        mean: Posterior mean of each coefficient ξ_k w_k, averaged over models, shape ``(d,)``.
        variance: Posterior variance of each coefficient, within and between models, shape ``(d,)``.
        log_evidence: log p(y), nats.

    Examples:
        >>> from bayesprune.selection import sparse_regression
        >>> problem = sparse_regression(50, 4, 2, seed=0)
        >>> posterior = enumerate_models(problem.x, problem.y, inclusion=0.5)
        >>> bool(((posterior.inclusion > 0.5) == problem.support).all())
        True
    """

    models: Tensor
    log_evidences: Tensor
    probabilities: Tensor
    inclusion: Tensor
    mean: Tensor
    variance: Tensor
    log_evidence: float


@checked_arguments
def enumerate_models(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    inclusion: Tensor | np.ndarray | float,
    slab_scale: float = 1.0,
    noise_scale: float = 1.0,
    intercept_scale: float = math.inf,
) -> ExactPosterior:
    """The posterior of y = b + X (ξ ∘ w) + noise over all 2^d models, in closed form.

    Model: ξ_k ~ Bernoulli(inclusion_k), w_k ~ Normal(0, slab_scale²), noise ~ Normal(0, noise_scale²), known;
    b ~ Normal(0, intercept_scale²). With s = slab_scale, G = XᵀPX/σ² and c = XᵀPy/σ² of the inputs of a model,
    log p(y | model) − log p(y | no inputs) = s² cᵀ A⁻¹ c / 2 − log det(A) / 2 with A = I + s² G (George & McCulloch
    1997). No eigenvalue of A is below 1, so that collinear inputs and more inputs than examples do no harm. An input
    that a model lacks leaves its row of A that of the identity: all models make one batch of equal size.

    Args:
        x: Inputs, shape ``(N, d)`` with d ≤ 12.
        y: Targets, shape ``(N,)``.
        inclusion: Prior inclusion probability, one for all inputs or shape ``(d,)``.
        slab_scale: Standard deviation of a coefficient that is in the model.
        noise_scale: Standard deviation of the noise. Where it is not known, `ExactPosterior.log_evidence` of several
            values weighs them.
        intercept_scale: Standard deviation of the intercept: 0 for none, infinite for a flat prior. A flat prior has
            density 1, so log evidences are comparable with each other, not with those of a proper prior.

    Raises:
        ConfigError: for more than 12 inputs, or scales or probabilities out of their range.
        DataError: for inputs or targets that are empty, do not fit together or are not finite.
    """
    if x.ndim == 2 and x.shape[1] > MAX_INPUTS:
        raise ConfigError(
            f"enumerate_models: expected at most {MAX_INPUTS} inputs, which have {2**MAX_INPUTS} models, found "
            f"{x.shape[1]}; use mean_field, or select columns"
        )
    problem = reduce(
        x,
        y,
        inclusion=inclusion,
        slab_scale=slab_scale,
        noise_scale=noise_scale,
        intercept_scale=intercept_scale,
    )
    bits = torch.arange(problem.num_inputs)
    models = (torch.arange(2**problem.num_inputs)[:, None] >> bits & 1).bool()
    log_evidences, means, variances = _condition(problem, models.double())
    return _average(problem.inclusion, models, log_evidences, means, variances)


def _condition(problem: Regression, on: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log evidence, posterior means and variances of the coefficients in each model, ``on`` of shape (models, d)."""
    scale = problem.slab_scale
    factor = torch.linalg.cholesky(problem.systems(on))
    target = (scale * problem.cross * on)[:, :, None]
    half = torch.linalg.solve_triangular(factor, target, upper=False)
    log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    log_evidences = problem.log_evidence + half.square().sum((1, 2)) / 2 - log_det
    means = scale * torch.linalg.solve_triangular(factor.mT, half, upper=True)[:, :, 0]
    variances = scale**2 * torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2) * on
    return log_evidences, means, variances


def _average(
    inclusion: Tensor, models: Tensor, log_evidences: Tensor, means: Tensor, variances: Tensor
) -> ExactPosterior:
    """Weigh the models by prior and evidence."""
    on = models.double()
    log_joint = log_evidences + (torch.xlogy(on, inclusion) + torch.special.xlog1py(1 - on, -inclusion)).sum(1)
    log_evidence = log_joint.logsumexp(0)
    probabilities = (log_joint - log_evidence).exp()
    mean = probabilities @ means
    return ExactPosterior(
        models=models,
        log_evidences=log_evidences,
        probabilities=probabilities,
        inclusion=(probabilities @ on).clamp(max=1.0),  # the sum may round to more
        mean=mean,
        variance=probabilities @ (variances + (means - mean).square()),
        log_evidence=float(log_evidence),
    )
