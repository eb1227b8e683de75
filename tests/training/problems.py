"""Small problems and networks that every test of training uses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate, Residual

INFORMATIVE, NOISE = 3, 5
EXAMPLES = 480
REST = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0}
"""Phases in which θ rests and weights alone learn."""


class Batches:
    """A loader of its own: the same batches in an order that follows from the epoch."""

    def __init__(self, x: Tensor, y: Tensor, size: int = 40):
        self.x, self.y, self.size, self.epoch = x, y, size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.x) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch))
        for chosen in order.split(self.size):
            yield self.x[chosen], self.y[chosen]


def examples(count: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    """Two classes, told apart by the sum of the first three of eight inputs."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(count, INFORMATIVE + NOISE, generator=generator)
    return x, (x[:, :INFORMATIVE].sum(1) > 0).long()


def shuffled(count: int = EXAMPLES) -> DataLoader:
    """Torch's own loader; its order comes from the global random number generator."""
    return DataLoader(TensorDataset(*examples(count)), batch_size=40, shuffle=True)


def units() -> nn.Module:
    """Gates on eight inputs and on six units."""
    width = INFORMATIVE + NOISE
    return nn.Sequential(Gate(width), layers.Linear(width, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 2))


def branches(count: int = 4) -> nn.Module:
    bodies = [Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(count)]
    return nn.Sequential(nn.Linear(INFORMATIVE + NOISE, 4), *bodies, nn.Linear(4, 2))


def stream() -> nn.Module:
    """Units that write where a branch writes as well."""
    return nn.Sequential(
        layers.Linear(INFORMATIVE + NOISE, 4, gate="unit"), nn.ReLU(), Residual(nn.Linear(4, 4)), nn.Linear(4, 2)
    )


def convolutional() -> nn.Module:
    """Gates after a normalisation, for inputs of shape (1, 8)."""
    return nn.Sequential(
        nn.Conv1d(1, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU(), Gate(4), nn.Flatten(),
        layers.Linear(24, 5, gate="unit"), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip


def bayesian(net: nn.Module, log_gamma: float = 2.0, num_data: int = EXAMPLES, **options: object) -> BayesianNet:
    return BayesianNet(net, num_data=num_data, prior=FlatteningPrior(log_gamma), **options)  # type: ignore[arg-type]


def set_theta(net: BayesianNet, **thetas: list[float]) -> None:
    """Set θ by gate name, its dots written as two underscores and a leading ``g``."""
    parts = net.by_gate(net.theta)
    with torch.no_grad():
        for name, values in thetas.items():
            parts[name.removeprefix("g").replace("__", ".")].copy_(torch.tensor(values))
