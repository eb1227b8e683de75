"""The reference for inclusion with a hidden layer: against closed forms, and its two ways against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bayesprune.selection import enumerate_models


def table(rows: int = 25) -> tuple[NDArray, NDArray]:
    """Two inputs: one by its sine, one weak; standardised."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((rows, 2))
    y = np.sin(1.5 * X[:, 0]) + 0.2 * X[:, 1] + 0.4 * generator.standard_normal(rows)
    return (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()


def test_with_a_linear_kernel_inclusion_is_that_of_the_enumeration(bench: Any) -> None:
    """One unit whose covariance is x x': spike and slab of scale 1, at a noise that is known."""
    x, y = table()
    x = np.concatenate((x, x[:, ::-1] ** 2), 1)
    sets = bench.believe_inputs.all_sets(4)
    one, noise = np.ones(1), 0.5
    found = bench.believe_inputs.log_evidences(x, y, sets, lambda x: x @ x.T, one, one, np.array([noise]))
    exact = enumerate_models(torch.tensor(x), torch.tensor(y), inclusion=0.3, noise_scale=noise, intercept_scale=1.0)
    places = sets @ 2 ** np.arange(4)
    np.testing.assert_allclose(found, exact.log_evidences.numpy()[places], rtol=1e-10)
    np.testing.assert_allclose(bench.believe_inputs.inclusion(sets, found, 0.3), exact.inclusion.numpy(), rtol=1e-9)


def test_the_evidence_sums_over_units_and_the_noise(bench: Any) -> None:
    """Against the multivariate normal law and a sum over σ that is written out, where 1/σ is half-normal."""
    x, y = table(8)
    units, weights, noises = np.array([0, 3]), np.array([0.25, 0.75]), np.geomspace(0.2, 1.0, 5)
    found = bench.believe_inputs.log_evidences(
        x, y, np.array([[True, False]]), bench.believe_inputs.relu_kernel, units, weights, noises
    )
    covariance = bench.believe_inputs.relu_kernel(x * [1, 0])
    terms = []
    for m, weight in zip(units, weights, strict=True):
        for noise in noises:
            law = multivariate_normal(np.zeros(8), m * covariance + 1 + noise**2 * np.eye(8))
            density = 2 * noise**-1 * np.exp(-(noise**-2) / 2) / np.sqrt(2 * np.pi)  # of log σ
            terms.append(np.log(weight * density * np.log(noises[1] / noises[0])) + law.logpdf(y))
    assert found[0] == pytest.approx(logsumexp(terms), rel=1e-10)


@pytest.mark.statistical
def test_the_covariance_is_that_of_a_random_unit(bench: Any) -> None:
    """Of 400,000 units; fails by chance at 4 standard errors an entry."""
    x, generator = np.array([[0.5, -1.0], [2.0, 0.3], [0.0, 0.0]]), np.random.default_rng(0)
    layer = generator.standard_normal((3, 400_000))
    units = np.maximum(x @ layer[:2] + layer[2], 0)
    products = units[:, None] * units
    error = products.std(-1) / 400_000**0.5
    assert (np.abs(products.mean(-1) - bench.believe_inputs.relu_kernel(x)) < 4 * error).all()


@pytest.mark.statistical
def test_tempering_finds_the_evidence_of_a_normal_law(bench: Any) -> None:
    """y = z + noise in five dimensions, far out in the prior: log Normal(y; 0, 1 + σ²), within 0.5 nats of -74.1."""
    y, noise = np.array([2.0, -1.0, 0.5, 3.0, -2.5]), 0.1
    exact = float(multivariate_normal(np.zeros(5), 1 + noise**2).logpdf(y))

    def log_likelihood(z: NDArray) -> NDArray:
        return -0.5 * ((y - z) ** 2 / noise**2 + np.log(2 * np.pi * noise**2)).sum(1)

    found = bench.tempering.tempered_evidence(log_likelihood, 5, 500, 20, np.random.default_rng(0))
    assert found == pytest.approx(exact, abs=0.5)


@pytest.mark.slow
@pytest.mark.statistical
def test_sampled_networks_and_the_process_agree_where_units_are_many(bench: Any) -> None:
    """Of 50 units the process charges the weak input between 1 and 2.5 nats too much, of 150 less."""
    x, y = table()
    sets, generator, excess = bench.believe_inputs.all_sets(2), np.random.default_rng(0), []
    for units in (50, 150):
        process = bench.believe_inputs.process_evidences(x, y, sets, units)
        sampled = [
            bench.believe_inputs.sampled_evidence(x[:, on], y, units, generator, particles=100, moves=5) for on in sets
        ]
        np.testing.assert_allclose(sampled[:3], process[:3], atol=1.0)
        excess.append(sampled[3] - process[3])
    assert 2.5 > excess[0] > 1 and excess[0] > excess[1] > -0.5
