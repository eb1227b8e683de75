"""Spike-and-slab linear regression with known noise: training against enumeration of all 2^d sets of inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, get_estimator
from bayesprune.infer.likelihoods import Gaussian
from bayesprune.layers import Gate
from bayesprune.optim.projected import ProjectedGateSGD
from tests.infer.verify import all_gates

N, SCALE, LOG_GAMMA, PRECISION = 64, 0.5, 6.0, 1.0


class Regression:
    """y = Xβ + noise, the inputs gated, the weights at their optimum given θ.

    Args:
        coefficients: β, shape ``(d,)``.
        correlation: Between neighbouring inputs; 0 makes the design exactly orthogonal.
        seed: Of design and noise.
    """

    def __init__(self, coefficients: list[float], correlation: float, seed: int):
        generator = torch.Generator().manual_seed(seed)
        beta = torch.tensor(coefficients, dtype=torch.float64)
        orthogonal, _ = torch.linalg.qr(torch.randn(N, len(beta), generator=generator, dtype=torch.float64))
        index = torch.arange(len(beta))
        covariance = correlation ** (index[:, None] - index).abs().double()
        self.x = orthogonal * N**0.5 @ torch.linalg.cholesky(covariance).T  # XᵀX/N is the covariance, exactly
        noise = SCALE * torch.randn(N, 1, generator=generator, dtype=torch.float64)
        self.y = self.x @ beta[:, None] + noise
        self.moments, self.cross = self.x.T @ self.x / N, (self.x.T @ self.y / N)[:, 0]
        net = nn.Sequential(Gate(len(beta)), nn.Linear(len(beta), 1, bias=False))
        prior = FlatteningPrior(torch.tensor(LOG_GAMMA))
        self.net = BayesianNet(net, Gaussian(SCALE), num_data=N, prior=prior, weight_precision=PRECISION).double()

    def ridge(self, theta: Tensor) -> Tensor:
        """The weights that minimise the expected loss with gates Bern(θ), shape ``(d,)``."""
        second = torch.outer(theta, theta) * self.moments + torch.diag(theta * (1 - theta) * self.moments.diagonal())
        penalty = PRECISION / N * torch.eye(len(theta), dtype=torch.float64)
        return torch.linalg.solve(second / SCALE**2 + penalty, theta * self.cross / SCALE**2)

    def objective(self, xi: Tensor) -> float:
        """The flattened objective of a set of inputs, weights at their optimum, up to a constant."""
        weights = self.ridge(xi)
        residual = self.y[:, 0] - self.x @ (xi * weights)
        slab = PRECISION / (2 * N) * weights.square().sum()
        return float(0.5 * (residual / SCALE).square().mean() + slab + LOG_GAMMA / N * xi.sum())

    def best(self) -> tuple[Tensor, float]:
        """The set of least objective, by enumeration."""
        vertices = all_gates(len(self.cross))
        values = torch.tensor([self.objective(vertex) for vertex in vertices], dtype=torch.float64)
        return vertices[int(values.argmin())], float(values.min())

    def train(self, estimator: str, steps: int) -> Tensor:
        """θ after projected SGD from 0.9, the price alone moving it by 5 over the run."""
        theta = self.net.theta
        optimizer = ProjectedGateSGD([theta], lr=5 * N / (LOG_GAMMA * steps))
        weight = self.net.net[1].weight
        for _ in range(steps):
            with torch.no_grad():
                weight.copy_(self.ridge(theta.detach())[None])
            optimizer.zero_grad()
            objective = BatchObjective(self.net, self.x, self.y)
            get_estimator(estimator)(objective, theta, self.net.sample_gates(self.x), self.net.price).backward()
            optimizer.step()
        return theta.detach()


SPARSE = [1.0, 0.0, -0.6, 0.05, 0.4, 0.0, -0.35, 0.1]


@pytest.mark.statistical
@pytest.mark.parametrize(("estimator", "inputs", "steps"), [("exact", 5, 50), ("paired", 8, 300)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_orthogonal_inputs_converge_to_the_set_that_enumeration_picks(
    estimator: str, inputs: int, steps: int, seed: int
) -> None:
    """There the loss separates over the gates; no failure by chance but for the sampling noise of ``paired``."""
    regression = Regression(SPARSE[:inputs], 0.0, seed)
    best, _ = regression.best()
    assert 0 < int(best.sum()) < inputs
    assert torch.equal(regression.train(estimator, steps), best)


@pytest.mark.statistical
def test_second_order_comes_as_near_as_its_step_noise_allows() -> None:
    """Unbiased here, where the loss is quadratic in each gate; a constant step keeps it off the vertex itself."""
    regression = Regression(SPARSE, 0.0, 0)
    torch.testing.assert_close(regression.train("second_order", 300), regression.best()[0], rtol=0, atol=0.1)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("correlation", "allowed"), [(0.5, 1e-6), (0.9, 0.1)])
def test_correlated_inputs_end_at_a_set_that_is_nearly_as_good(
    correlation: float, allowed: float, record_property: Callable[[str, object], None]
) -> None:
    """The mean field may stop at another vertex: by how much its objective is worse, nats per example, five designs."""
    gaps, differing = [], []
    for seed in range(5):
        regression = Regression(SPARSE[:5], correlation, seed)
        best, value = regression.best()
        theta = regression.train("exact", 60)
        assert bool(((theta == 0) | (theta == 1)).all())
        gaps.append(regression.objective(theta) - value)
        differing.append(int((theta != best).sum()))
    record_property("gap of the objective, nats per example", gaps)
    record_property("inputs that differ", differing)
    assert min(gaps) >= 0 and max(gaps) <= allowed
