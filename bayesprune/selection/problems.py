"""Synthetic regressions of which it is known which inputs matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.checked import real, whole

FRIEDMAN_INPUTS = 5
"""Inputs that Friedman's function depends on, the first ones."""
LARGEST_SEED = 2**32 - 1
"""What generators of random numbers take at most."""


@dataclass(frozen=True)
class SelectionProblem:
    """A regression with its answer.

    Attributes:
        x: Inputs, float32, shape ``(N, d)``.
        y: Targets, float32, shape ``(N,)``.
        support: Which inputs the targets depend on, bool, shape ``(d,)``.
        coefficients: Their coefficients, 0 off the support, float32, shape ``(d,)``; ``None`` where the targets are no
            linear function of the inputs.

    Examples:
        >>> problem = sparse_regression(50, 200, 3, seed=0)
        >>> problem.x.shape, int(problem.support.sum())
        (torch.Size([50, 200]), 3)
    """

    x: Tensor
    y: Tensor
    support: Tensor
    coefficients: Tensor | None


def sparse_regression(
    num_data: int,
    num_inputs: int,
    num_active: int,
    *,
    correlation: float = 0.0,
    effect: float = 1.0,
    noise_scale: float = 1.0,
    seed: int = 0,
) -> SelectionProblem:
    """A linear regression y = Xβ + noise with few of the β not 0, as in sparse recovery; d may exceed N by far.

    Rows of X are Normal(0, Σ) with Σ_jk = correlation^|j − k|, an autoregression of order 1 along the inputs. The
    active inputs are drawn at random; each has β = +effect or −effect with equal probability.

    Args:
        num_data: N.
        num_inputs: d.
        num_active: Number of inputs with β ≠ 0.
        correlation: Correlation of neighbouring inputs, in (−1, 1).
        effect: Size of an active input's coefficient. Alone in a model it would be estimated with a standard error of
            noise_scale / √N.
        noise_scale: Standard deviation of the noise.
        seed: Seeds everything; the generator of torch is left alone.

    Raises:
        ConfigError: for sizes or scales out of their range.
    """
    num_data, num_inputs, noise_scale = _sizes("sparse_regression", num_data, num_inputs, noise_scale)
    num_active = whole("sparse_regression: num_active", num_active, 0, num_inputs, hint="it counts inputs")
    correlation = real("sparse_regression: correlation", correlation, -1, 1)
    effect = real("sparse_regression: effect", effect, 0, hint="signs are drawn")
    seed = whole("sparse_regression: seed", seed, 0, LARGEST_SEED)
    generator = torch.Generator().manual_seed(seed)
    x = _autoregressive(num_data, num_inputs, correlation, generator)
    active = torch.randperm(num_inputs, generator=generator)[:num_active]
    signs = 2 * torch.randint(2, (num_active,), generator=generator).float() - 1
    coefficients = torch.zeros(num_inputs, dtype=torch.float32).index_put_((active,), effect * signs)
    noise = noise_scale * torch.randn(num_data, generator=generator, dtype=torch.float32)
    return SelectionProblem(x, x @ coefficients + noise, coefficients != 0, coefficients)


def friedman_regression(num_data: int, num_inputs: int, *, noise_scale: float = 1.0, seed: int = 0) -> SelectionProblem:
    """Friedman's non-linear regression, in which five inputs matter.

    y = 10 sin(π x_0 x_1) + 20 (x_2 − ½)² + 10 x_3 + 5 x_4 + noise, all inputs Uniform(0, 1) and independent (Friedman
    1991), by scikit-learn's `make_friedman1`. The square has no linear correlation with x_2: a linear model cannot find
    that input.

    Args:
        num_data: N.
        num_inputs: d, at least 5.
        noise_scale: Standard deviation of the noise. That of the function is 4.9.
        seed: Seeds everything; the global generators are left alone.

    Raises:
        ConfigError: for sizes or scales out of their range.
    """
    from sklearn.datasets import make_friedman1  # slow to import

    num_data, num_inputs, noise_scale = _sizes("friedman_regression", num_data, num_inputs, noise_scale)
    num_inputs = whole(
        "friedman_regression: num_inputs", num_inputs, FRIEDMAN_INPUTS, hint="the function depends on five"
    )
    seed = whole("friedman_regression: seed", seed, 0, LARGEST_SEED)
    x, y = make_friedman1(num_data, num_inputs, noise=noise_scale, random_state=seed)
    support = torch.arange(num_inputs) < FRIEDMAN_INPUTS
    return SelectionProblem(torch.from_numpy(x).float(), torch.from_numpy(y).float(), support, None)


def _autoregressive(num_data: int, num_inputs: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Rows of a stationary autoregression of order 1 and variance 1, shape ``(num_data, num_inputs)``."""
    step = torch.arange(num_inputs)
    lag = (step[:, None] - step).clamp(min=0)
    mixing = (correlation ** lag.float()).tril()
    mixing[:, 1:] *= math.sqrt(1 - correlation**2)
    return torch.randn(num_data, num_inputs, generator=generator, dtype=torch.float32) @ mixing.T


def _sizes(where: str, num_data: int, num_inputs: int, noise_scale: float) -> tuple[int, int, float]:
    """The three as plain numbers; refuses no examples or inputs, and noise of no standard deviation."""
    return (
        whole(f"{where}: num_data", num_data),
        whole(f"{where}: num_inputs", num_inputs),
        real(f"{where}: noise_scale", noise_scale, 0, ends="[)"),
    )
