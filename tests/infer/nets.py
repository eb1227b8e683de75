"""Small Bayesian networks that every test of inference is tried on, in float64, with a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, LearnedGaussian
from bayesprune.infer.objective import WEIGHT_TERMS, total
from bayesprune.layers import Gate, Residual

ROWS = 6
NUM_DATA = 50


def learned(scales: list | float, **arguments: float) -> LearnedGaussian:
    """With its noise scales, one or one an entry, at these values."""
    values = torch.tensor(scales, dtype=torch.float64)
    likelihood = LearnedGaussian(shape=tuple(values.shape), **arguments).double()
    likelihood.log_scale.data.copy_(values.log())
    return likelihood


def weight_penalty(net: BayesianNet) -> Tensor:
    """What weights and the likelihood's parameters add to the negative ELBO, nats per example."""
    return total(net, WEIGHT_TERMS)


def units() -> nn.Module:
    """Seven gates, before and after activations."""
    return nn.Sequential(Gate(3), layers.Linear(3, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 3))


def smooth_units() -> nn.Module:
    return nn.Sequential(layers.Linear(3, 5, gate="unit"), nn.Tanh(), nn.Linear(5, 3))


def branches() -> nn.Module:
    """Five gates, one of them on a layer."""
    blocks = [Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(4)]
    return nn.Sequential(nn.Linear(3, 4), *blocks, Residual(layers.Linear(4, 4, gate=None)), nn.Linear(4, 3))


def mixed() -> nn.Module:
    """Three branches, one with two gated units inside, and two gated units between them."""
    inner = nn.Sequential(layers.Linear(4, 2, gate="unit"), nn.ReLU(), nn.Linear(2, 4))
    return nn.Sequential(
        nn.Linear(3, 4),
        Residual(nn.Linear(4, 4)),
        Residual(inner),
        layers.Linear(4, 2, gate="unit"),
        nn.ReLU(),
        nn.Linear(2, 3),
        Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh())),
        nn.Linear(3, 3),
    )


def shared_units() -> nn.Module:
    """Three gates that a batch shares, which cannot be skipped, and three that it does not."""
    first = Gate(3, per_batch=True)
    return nn.Sequential(
        first, nn.Linear(3, 4), nn.ReLU(), layers.Linear(4, 3, gate="unit"), nn.Tanh(), nn.Linear(3, 3)
    )


def linear_units() -> nn.Module:
    """Six gates; outputs are linear in each ξ_s, so a Gaussian loss is quadratic in each. One output."""
    return nn.Sequential(Gate(3), layers.Linear(3, 3, gate="unit"), nn.Linear(3, 1))


def normalised_branches() -> nn.Module:
    """Two branches with what has a state and randomness of its own."""

    def body() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5))

    return nn.Sequential(nn.Linear(3, 4), Residual(body()), Residual(body()), nn.Linear(4, 3))


class Case:
    """A Bayesian network with a batch.

    Args:
        build: Makes the gated network.
        thetas: Inclusion probabilities in the order of `BayesianNet.theta`; repeated as often as needed.
        likelihood: Name of the likelihood; by default the one that fits the network.
        rows: Size of the batch.
        num_data: N.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        thetas: Sequence[float] = (0.3, 0.7, 0.5),
        *,
        likelihood: str | None = None,
        rows: int = ROWS,
        num_data: int = NUM_DATA,
    ):
        torch.manual_seed(5)
        likelihood = likelihood or ("gaussian" if build is linear_units else "categorical")
        self.net = BayesianNet(
            build(), likelihood, num_data=num_data, prior=FlatteningPrior(torch.tensor(4.0)), weight_precision=0.1
        ).double()
        with torch.no_grad():
            for weight in self.net.weights().values():
                weight.mul_(2)
        self.set_theta(thetas)
        self.net.log_gamma.copy_(torch.linspace(2.0, 6.0, self.net.num_gates))
        self.x = torch.randn(rows, 3, dtype=torch.float64)
        outputs = self.net.net(self.x)
        self.y = torch.arange(rows) % 3 if likelihood == "categorical" else torch.randn(outputs.shape).double()

    def set_theta(self, thetas: Sequence[float]) -> None:
        with torch.no_grad():
            self.net.theta.copy_(torch.tensor([thetas[s % len(thetas)] for s in range(self.net.num_gates)]))

    @property
    def objective(self) -> BatchObjective:
        return BatchObjective(self.net, self.x, self.y)

    def mean_loss(self, xi: Tensor) -> Tensor:
        """C(ξ), by the plain forward pass."""
        return self.net.likelihood.nll(self.net(self.x, xi), self.y).mean()
