"""Evidence by sequential Monte Carlo from the prior to the posterior, of parameters with standard Normal priors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import logsumexp

KEPT = 0.7
"""Which part of the particles counts after the likelihood has been raised to its next power (effective sample size)."""
WANTED = 0.3
"""Which part of the moves is to be accepted."""


def tempered_evidence(
    log_likelihood: Callable[[NDArray], NDArray], size: int, particles: int, moves: int, generator: Generator
) -> float:
    """The log of the mean likelihood under the prior, nats (Del Moral, Doucet & Jasra 2006).

    The likelihood is raised to powers from 0 to 1, each as high as `KEPT` allows. After each the particles are drawn
    anew by their weights and moved by autoregressive proposals, which leave the prior as it is (Neal 1998), on a
    random part of the parameters.

    Args:
        log_likelihood: From parameters of shape ``(particles, size)`` to shape ``(particles,)``, nats.
        size: Number of parameters.
        particles: How many are carried along.
        moves: How many proposals each gets at each power.
        generator: Source of randomness.
    """
    z = generator.standard_normal((particles, size))
    log_likelihoods, power, evidence, step = log_likelihood(z), 0.0, 0.0, 0.5
    while power < 1:
        rise = _next_rise(log_likelihoods, 1 - power)
        power = power + rise if rise < 1 - power else 1.0
        evidence += float(logsumexp(rise * log_likelihoods)) - np.log(particles)
        weights = np.exp(rise * log_likelihoods - logsumexp(rise * log_likelihoods))
        points = (generator.random() + np.arange(particles)) / particles
        chosen = np.searchsorted(weights.cumsum(), points).clip(max=particles - 1)
        z, log_likelihoods = z[chosen], log_likelihoods[chosen]
        for _ in range(moves):
            part = generator.random((particles, size)) < generator.random((particles, 1))
            moved = np.where(part, np.sqrt(1 - step**2) * z + step * generator.standard_normal(z.shape), z)
            there = log_likelihood(moved)
            accepted = np.log(generator.random(particles)) < power * (there - log_likelihoods)
            z, log_likelihoods = np.where(accepted[:, None], moved, z), np.where(accepted, there, log_likelihoods)
            step = float(np.clip(step * np.exp(accepted.mean() - WANTED), 0.01, 0.99))
    return evidence


def _next_rise(log_likelihoods: NDArray, left: float) -> float:
    """By how much the power may rise, by bisection."""

    def effective(rise: float) -> float:
        logs = rise * log_likelihoods
        return float(np.exp(2 * logsumexp(logs) - logsumexp(2 * logs))) / len(logs)

    if effective(left) >= KEPT:
        return left
    low, high = 0.0, left
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= KEPT else (low, middle)
    return max(low, 1e-6)
