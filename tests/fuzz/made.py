"""What the calls of public functions are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import data, layers
from bayesprune import sklearn as estimators
from bayesprune.data.images import Raw
from bayesprune.types import IndexMap


def network() -> nn.Sequential:
    return nn.Sequential(layers.Linear(4, 6, gate="unit"), nn.ReLU(), layers.Residual(nn.Linear(6, 6)), nn.Linear(6, 3))


def bayesian() -> bp.BayesianNet:
    return bp.BayesianNet(network(), num_data=8)


def batch() -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, 32).view(8, 4), torch.arange(8) % 3


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*batch()), batch_size=4)


def images() -> data.Images:
    raw = Raw(torch.arange(8 * 16).to(torch.uint8).view(8, 1, 4, 4), torch.arange(8) % 2)
    return data.Images(raw, torch.tensor([64.0]), torch.tensor([32.0]))


def splits() -> data.Splits:
    return data.Splits("made", images(), images(), 2, (1, 4, 4))


def table() -> tuple[Tensor, Tensor]:
    x = torch.sin(torch.arange(60.0)).view(20, 3)
    return x, x[:, 0] + 0.1 * x[:, 1]


def half(*shape: int) -> Tensor:
    return torch.full(shape, 0.5)


def made(name: str, **arguments: Any) -> Any:
    """An estimator with these parameters, fitted: its parameters are checked there."""
    return getattr(estimators, name)(epochs=2, **arguments).fit(*table()[:1], [0, 1] * 10)


def thetas() -> dict[str, Tensor]:
    return {"0": half(6), "2": half(1)}


def remap_arguments() -> dict[str, Any]:
    named = dict(network().named_parameters())
    kept = IndexMap({name: (None,) * value.dim() for name, value in named.items()})
    return {"optimizer": torch.optim.SGD(named.values(), 0.1), "old": named, "new": named, "index": kept}
