"""Regression with Normal weights, for tests of training."""

from __future__ import annotations

import torch
from torch import nn

from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.infer import BayesianNet, LearnedGaussian
from bayesprune.layers import Gate, Residual
from tests.training.problems import EXAMPLES, Batches, examples


def targets() -> Batches:
    """The sum of three of eight inputs, with noise."""
    x, _ = examples()
    noise = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1))
    return Batches(x, x[:, :3].sum(1, keepdim=True) + 0.3 * noise)


def stream() -> nn.Module:
    return nn.Sequential(
        Gate(8), layers.Linear(8, 6, gate="unit"), nn.Tanh(), Residual(nn.Linear(6, 6)), Residual(nn.Linear(6, 6)),
        nn.Linear(6, 1),
    )  # fmt: skip


def regression(prior: FixedInclusion | FlatteningPrior, scale: float | None = None) -> BayesianNet:
    torch.manual_seed(8)
    net = BayesianNet(stream(), LearnedGaussian(), num_data=EXAMPLES, prior=prior, slab="normal", slab_scale=scale)
    with torch.no_grad():
        net.theta.copy_(torch.linspace(0.05, 0.95, net.num_gates))
    net.refresh()
    return net
