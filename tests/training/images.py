"""Images and a convolutional network, and its gradients by an engine, for tests of engines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual
from bayesprune.training.engine import Engine


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 4


def convolutional(blocks: int = 3) -> BayesianNet:
    """Gated channels, then branches of one form."""
    torch.manual_seed(1)
    bodies = [nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.ReLU()) for _ in range(blocks)]
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), layers.Gate(5), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1),
        *map(Residual, bodies), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    return BayesianNet(net, num_data=6)


def loss(engine: Engine, net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor | None = None) -> Tensor:
    with engine.autocast():
        outputs = engine.wrap(net)(engine.input(x), torch.ones(1, net.num_gates) if xi is None else xi, skip=True)
        return net.likelihood.nll(outputs, y).mean()


def gradients(engine: Engine, net: BayesianNet, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    engine.backward(loss(engine, net, x, y))
    return {name: p.grad.clone() for name, p in net.weights().items()}
