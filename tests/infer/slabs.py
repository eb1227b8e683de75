"""Networks with Normal weights of all kinds, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet
from bayesprune.layers import Gate, Residual
from tests.pruning.nets import NETS as LARGER

NUM_DATA = 50


class Streams(nn.Module):
    """A branch that is computed though its gate is off, added to units that are gated too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = layers.Linear(3, 3, gate="unit"), nn.Linear(3, 3), nn.Linear(3, 2)
        self.gate = Gate(1, per_batch=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        return self.last(torch.tanh(y + self.gate(self.branch(y)).tanh()))


class Readers(nn.Module):
    """Units that two gated layers read: they are needed if either is on."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.left, self.right = layers.Linear(3, 3, gate="unit"), nn.Linear(3, 2), nn.Linear(3, 2)
        self.one, self.other = Gate(1, per_batch=True), Gate(1, per_batch=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.units(x))
        return self.one(self.left(y)) + self.other(self.right(y))


class Beside(nn.Module):
    """Two gated layers side by side, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = layers.Linear(3, 2, gate="unit"), layers.Linear(3, 3, gate="unit")
        self.last, self.idle = nn.Linear(5, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([torch.tanh(self.one(x)), torch.tanh(self.other(x))], 1))


def dense() -> nn.Module:
    return nn.Sequential(Gate(3), layers.Linear(3, 4, gate="unit"), nn.Tanh(), nn.Linear(4, 2))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), Gate(3), nn.Linear(3, 3), nn.Tanh(), Gate(3), nn.Linear(3, 2))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), Gate(3), nn.Linear(3, 2, bias=False))


def features() -> nn.Module:
    """A filter is needed if any of the features is that it becomes."""
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), Gate(8), nn.Linear(8, 2))


def filters_and_features() -> nn.Module:
    return nn.Sequential(layers.Conv1d(1, 2, 2, gate="unit"), nn.Tanh(), nn.Flatten(), Gate(4), nn.Linear(4, 2))


def depthwise() -> nn.Module:
    deep = layers.Conv1d(3, 3, 2, groups=3, bias=False, gate="unit")
    return nn.Sequential(layers.Conv1d(1, 3, 2, gate="unit"), nn.Tanh(), deep, nn.Tanh(), nn.Flatten(), nn.Linear(3, 2))


def branches() -> nn.Module:
    first = nn.Sequential(layers.Linear(3, 2, gate="unit"), nn.Tanh(), nn.Linear(2, 3))
    return nn.Sequential(nn.Linear(2, 3), Residual(first), nn.Tanh(), Residual(nn.Linear(3, 3)), nn.Linear(3, 2))


def nested() -> nn.Module:
    inner = Residual(layers.Linear(3, 3, gate="unit"))
    outer = Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), inner, nn.Tanh(), nn.Linear(3, 3)))
    return nn.Sequential(nn.Linear(2, 3), outer, nn.Linear(3, 2))


def stream() -> nn.Module:
    """An input of the branch is there if its unit is; one of the last layer if that or the branch is."""
    return nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Tanh(), Residual(nn.Linear(3, 3)), nn.Linear(3, 2))


def layer_gate() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), layers.Linear(3, 3, gate="layer"), nn.Tanh(), nn.Linear(3, 2))


def one_input() -> nn.Module:
    """A gate of one number on an input of which nothing else is known."""
    return nn.Sequential(Gate(1), layers.Linear(1, 3, gate="unit"), nn.Tanh(), nn.Linear(3, 2))


def half() -> nn.Module:
    """A unit that is off leaves sigmoid(0), so the weights behind it stay."""
    return nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Sigmoid(), nn.Linear(3, 2))


def sequence() -> nn.Module:
    return nn.Sequential(Gate(3, dim=-1), layers.Linear(3, 2, gate="unit"), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense, (3,)), "two layers": (two_layers, (2,)), "normalised": (normalised, (2,)),
    "features": (features, (1, 3, 3)), "filters and features": (filters_and_features, (1, 3)),
    "depthwise": (depthwise, (1, 3)), "branches": (branches, (2,)), "nested": (nested, (2,)), "stream": (stream, (2,)),
    "streams": (Streams, (3,)), "readers": (Readers, (3,)), "beside": (Beside, (3,)), "layer": (layer_gate, (2,)),
    "one input": (one_input, (1,)), "half": (half, (2,)), "sequence": (sequence, (2, 3)),
}  # fmt: skip


def bayesian(name: str, slab_scale: float | None = 0.7) -> BayesianNet:
    """In float64 and eval mode, θ and the scales of the weights all different."""
    build = NETS[name][0] if name in NETS else LARGER[name][0]
    net = BayesianNet(
        build(), "gaussian", num_data=NUM_DATA, prior=FlatteningPrior(4.0), slab="normal", slab_scale=slab_scale
    ).double()
    assert net.weights_posterior.name == "normal"
    with torch.no_grad():
        net.theta.copy_(torch.linspace(0.2, 0.85, net.num_gates))
        for log_scale in net.weights_posterior.log_scales():
            log_scale.add_(torch.randn_like(log_scale))
    net.refresh()
    return net.eval()


def inputs(name: str, rows: int = 4) -> Tensor:
    return torch.randn(rows, *(NETS[name] if name in NETS else LARGER[name])[1]).double()


def matters(net: BayesianNet, x: Tensor, xi: Tensor) -> Tensor:
    """Whether the outputs depend on each Normal weight with these gates, shape ``(D,)``."""
    means = net.weights_posterior.means()
    with net.draw.use(xi):
        outputs = net.net(x)
    mixed = (outputs * torch.linspace(1, 9, outputs.numel()).view_as(outputs).sin()).sum()
    if not mixed.requires_grad:
        return torch.zeros(sum(p.numel() for p in means), dtype=torch.bool)
    slopes = torch.autograd.grad(mixed, means, materialize_grads=True, allow_unused=True)
    return torch.cat([slope.flatten() for slope in slopes]).abs() > 1e-14


def tables_by_mean(net: BayesianNet) -> dict[int, Tensor]:
    """Θ of every mean, by its id."""
    posterior = net.weights_posterior
    return dict(zip(map(id, posterior.means()), posterior._tables(net.by_gate(net.theta)), strict=True))


def divergence_at(net: BayesianNet, theta: Tensor) -> Tensor:
    return net.weights_posterior.divergence(net.by_gate(theta))


def presence(net: BayesianNet, theta: Tensor | None = None) -> Tensor:
    return net.weights_posterior.presence(net.by_gate(net.theta if theta is None else theta))


def used(net: BayesianNet) -> Tensor:
    """Which weights belong to layers that the forward pass calls, shape ``(D,)``."""
    return torch.cat([
        torch.full((p.numel(),), "idle" not in name) for name, p in net.net.named_parameters()
        if any(p is mean for mean in net.weights_posterior.means())
    ])  # fmt: skip


def backward(net: BayesianNet, x: Tensor, xi: Tensor) -> None:
    """One pass as `fit` computes it: branches that are off are left out."""
    for p in net.trained().values():
        p.grad = None
    BatchObjective(net, x, torch.zeros(len(x), 2).to(x))(xi, skip=True).mean().backward()
