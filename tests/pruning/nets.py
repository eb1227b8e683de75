"""Networks that surgery is tried on, by name: a function that builds one, and the shape of one example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers import Gate, Residual


def mlp_with_input_gates() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), Gate(24),
        layers.Linear(24, 12, gate="unit"), nn.ReLU(), layers.Linear(12, 8, gate="unit"), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def lenet() -> nn.Module:
    return nn.Sequential(
        layers.Conv2d(1, 6, 5, gate="unit"), nn.ReLU(), nn.MaxPool2d(2),
        layers.Conv2d(6, 8, 3, gate="unit"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), Gate(8 * 2 * 2), layers.Linear(32, 16, gate="unit"), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def normalised() -> nn.Module:
    """Gates stand after the normalisation and the activation."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), Gate(8),
        nn.AvgPool2d(2, padding=1), nn.Conv2d(8, 6, 3, stride=2, padding="valid"), nn.BatchNorm2d(6), nn.PReLU(6),
        Gate(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ELU(), Gate(10), nn.Dropout(0.3), nn.Linear(10, 3),
    )  # fmt: skip


def residual() -> nn.Module:
    """Identity and projection shortcuts, units gated within branches, one branch within another."""

    def conv(a: int, b: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b))

    inner = Residual(nn.Sequential(layers.Conv2d(8, 5, 1, gate="unit"), nn.ReLU(), nn.Conv2d(5, 8, 1)))
    return nn.Sequential(
        conv(3, 8), nn.ReLU(),
        Residual(nn.Sequential(conv(8, 6), nn.ReLU(), Gate(6), conv(6, 8))), nn.ReLU(),
        Residual(nn.Sequential(conv(8, 12, 2), nn.ReLU(), Gate(12), conv(12, 12)), nn.Conv2d(8, 12, 1, 2)),
        nn.ReLU(inplace=True),
        Residual(nn.Sequential(nn.Conv2d(12, 8, 1), inner, nn.ReLU(), nn.Conv2d(8, 12, 1))),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


class UserNet(nn.Module):
    """Its own forward: functions, methods, one activation twice, concatenation, a view, attention over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.left = layers.Conv2d(3, 5, 3, padding=1, gate="unit")
        self.right = layers.Conv2d(3, 4, 3, padding=1, gate="unit")
        self.squeeze = nn.Conv2d(9, 9, 1)
        self.mix = layers.Conv2d(9, 6, 3, gate="unit")
        self.gate = Gate(1, per_batch=True)
        self.branch = nn.Linear(7, 7)
        self.head = layers.Linear(6 * 2 * 2, 7, gate="unit")
        self.out = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.act(self.left(x)), self.act(self.right(x))], dim=1)
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        y = F.max_pool2d(F.relu(self.mix(y)), 2)
        y = y.view(y.size(0), -1)
        y = F.leaky_relu(self.head(y), 0.2)
        y = 2 * y + self.gate(self.branch(y)).tanh()
        return self.out(y - 0.5)


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2d(1, 4, 3, gate="unit")
        self.norm = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.norm(torch.flatten(self.conv(x), 1))))


def sigmoid() -> nn.Module:
    """Constants other than 0: a half into convolution and linear layer, and log 2 into the output layer."""
    return nn.Sequential(
        layers.Conv1d(2, 6, 3, gate="unit"), nn.Sigmoid(), nn.AvgPool1d(2), nn.Conv1d(6, 5, 3), nn.ReLU(), nn.Flatten(),
        layers.Linear(20, 8, gate="unit"), nn.Softplus(), nn.Linear(8, 3),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        layers.Conv2d(2, 6, 3, gate="unit"), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(),
        layers.Conv2d(6, 6, 3, padding=1, groups=6, bias=False, gate="unit"), nn.Conv2d(6, 4, 1),
        nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip


def sequence() -> nn.Module:
    """Features along the last of three dimensions, flattened at the end."""
    return nn.Sequential(
        Gate(5, dim=-1), layers.Linear(5, 7, gate="unit"), nn.GELU(), Residual(nn.Linear(7, 7)), nn.Linear(7, 6),
        Gate(6, dim=-1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


class Barriers(nn.Module):
    """What must stay: a layer used twice, a grouped convolution, a hard-coded view, a parameter, a gated output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Conv2d(4, 4, 3, padding=1, gate="unit")
        self.grouped = layers.Conv2d(4, 8, 3, groups=2, gate="unit")
        self.fc = layers.Linear(72, 9, gate="unit")
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 9))
        self.norm = nn.LayerNorm(9)
        self.middle = layers.Linear(9, 6, gate="unit")
        self.out = layers.Linear(6, 3, gate="unit")
        self.stay = Gate(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        x = self.grouped(F.relu(self.first(F.relu(self.first(x)))))
        x = self.fc(x.view(-1, 72))
        x = self.norm(x * self.scale)
        y = self.out(F.relu(self.middle(x)))
        return torch.log_softmax(self.stay(y), 1)


NETS = {
    "mlp_with_input_gates": (mlp_with_input_gates, (2, 3, 4)),
    "lenet": (lenet, (1, 16, 16)),
    "normalised": (normalised, (3, 9, 9)),
    "residual": (residual, (3, 8, 8)),
    "user": (UserNet, (3, 6, 6)),
    "flattened": (Flattened, (1, 4, 4)),
    "sigmoid": (sigmoid, (2, 14)),
    "depthwise": (depthwise, (2, 6, 6)),
    "sequence": (sequence, (4, 5)),
    "barriers": (Barriers, (4, 5, 5)),
}  # fmt: skip
