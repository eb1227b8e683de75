"""Random networks of operations on maps, sequences and features: exact or refused."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.graph import gates_of
from bayesprune.layers import Gate
from tests.graph.test_axes import Apply
from tests.graph.test_random_axes import outcome
from tests.pruning.verify import randomise_statistics


class Times(nn.Module):
    """Times a parameter."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.parameter


class Plus(Times):
    """Plus a parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.parameter


class Beside(nn.Module):
    """Joined with what a module makes of it, or added to that."""

    def __init__(self, body: nn.Module, joined: bool) -> None:
        super().__init__()
        self.body, self.joined = body, joined

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1) if self.joined else x + self.body(x)


def random_part(rng: random.Random, shape: torch.Size) -> nn.Module:
    c, last = shape[1], shape[-1]
    parts = [
        lambda: Gate(c), lambda: Gate(c), lambda: Gate(last, dim=-1), nn.ReLU, nn.Sigmoid, nn.Tanh, lambda: nn.PReLU(c),
        nn.Dropout, lambda: Apply(lambda x: torch.log1p(x.abs())),
    ]  # fmt: skip
    if len(shape) == 4:
        parts += [
            lambda: nn.Conv2d(c, rng.choice([2, 4, 8]), 3, padding=rng.choice([0, 1])), lambda: nn.Conv2d(c, c, 1),
            lambda: layers.Conv2d(c, 4, 1, gate="unit"), lambda: nn.Conv2d(c, c, 1, groups=c),
            lambda: nn.ConvTranspose2d(c, rng.choice([2, 4]), 2, 2), lambda: nn.PixelShuffle(2),
            lambda: nn.MaxPool2d(2),
            lambda: nn.PixelUnshuffle(2), lambda: nn.Upsample(scale_factor=2), lambda: nn.ZeroPad2d(1),
            lambda: nn.BatchNorm2d(c), lambda: Times(c, 1, 1), lambda: Plus(1, c, 1, 1),
            lambda: Beside(nn.Conv2d(c, 3, 1), True), lambda: Beside(nn.Identity(), True),
            lambda: Beside(nn.Conv2d(c, c, 1), False), lambda: Apply(lambda x: x * x.mean(1, keepdim=True)),
            lambda: Apply(lambda x: x.permute(0, 2, 3, 1)), lambda: Apply(lambda x: x.flatten(2)),
            lambda: Apply(lambda x: x.flatten(1, 2)), lambda: Apply(lambda x: x.amax(-1)),
            lambda: Apply(lambda x: x.max(2)[0]), lambda: Apply(lambda x: F.interpolate(x, x.shape[2:])),
        ]  # fmt: skip
    elif len(shape) == 3:
        parts += [
            lambda: nn.Conv1d(c, 4, 1), lambda: nn.Linear(last, 4), lambda: Times(last), lambda: Plus(c, 1), nn.Flatten,
            lambda: Apply(lambda x: x.transpose(1, 2)), lambda: Apply(lambda x: x.sum(2)),
            lambda: Apply(lambda x: x.mean(1)), lambda: Apply(lambda x: x.unsqueeze(2)),
        ]  # fmt: skip
    else:
        parts += [
            lambda: nn.Linear(c, 4), lambda: layers.Linear(c, 4, gate="unit"), lambda: Times(c),
            lambda: Apply(lambda x: x.unsqueeze(-1).squeeze(-1)),
        ]  # fmt: skip
    return rng.choice(parts)()


@torch.no_grad()
def random_net(seed: int) -> tuple[nn.Module, Tensor]:
    """A network of parts that fit one another, and an input."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    x = h = torch.randn(2, 4, 4, 4)
    parts: list[nn.Module] = []
    for _ in range(rng.randint(3, 8)):
        part = random_part(rng, h.shape).eval()
        try:
            after = part(h)
        except (RuntimeError, ValueError):  # maps too small, or channels that do not divide
            continue
        if after.numel() <= 4000:
            parts, h = [*parts, part], after
    ends = {4: nn.Conv2d(h.shape[1], 2, 1), 3: nn.Linear(h.shape[-1], 2), 2: nn.Linear(h.shape[-1], 2)}
    net = nn.Sequential(*parts, ends[h.dim()])
    randomise_statistics(net, seed)
    return net.double().eval(), x.double()


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(40, 500), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_exact_or_refused(seeds: range) -> None:
    found: dict[str, int] = {}
    for seed in seeds:
        net, x = random_net(seed)
        if gates_of(net):
            for example in (None, x):
                what = outcome(net, x, example, seed)
                found[what] = found.get(what, 0) + 1
    assert found["exact"] > len(seeds) // 3
