"""Random networks of what users write: exact for other batches and maps than the example's, in both modes, and again.

Whatever is accepted is cut three times in a row, and tried on other numbers of examples and other sizes of maps.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError, TraceError
from bayesprune.graph import check_gates, gates_of
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import compact, shrink
from tests.graph.test_axes import Apply
from tests.pruning.verify import off_by_mode, randomise_statistics


class Shared(nn.Module):
    """One gate after two layers: in a row, added, joined, or multiplied."""

    def __init__(self, gate: Gate, first: nn.Module, second: nn.Module, how: str) -> None:
        super().__init__()
        self.gate, self.first, self.second, self.how = gate, first, second, how

    def forward(self, x: Tensor) -> Tensor:
        a = self.gate(self.first(x))
        b = self.gate(self.second(a if self.how == "row" else x))
        if self.how == "row":
            return b
        return {"sum": torch.add, "cat": lambda *both: torch.cat(both, 1), "mul": torch.mul}[self.how](a, b)


EVERY: list[Callable[[Tensor], Tensor]] = [
    torch.relu, F.silu, lambda h: h.exp() - 1, lambda h: 1 - h, lambda h: h * h, lambda h: h.clamp(min=0.2),
    lambda h: h * h.mean(1, keepdim=True), lambda h: h.chunk(2, 1)[0] * h.chunk(2, dim=1)[1].sigmoid(),
    lambda h: torch.cat(h.chunk(2, 1)[::-1], 1), lambda h: h.split(h.size(1) // 2, 1)[0], lambda h: h.flip(1),
    lambda h: h.repeat_interleave(2, 1), lambda h: torch.cat([h, h.tanh()], axis=1), lambda h: h[:, ::2],
    lambda h: h[:, : h.shape[1] // 2], lambda h: h.view(h.size(0), -1), lambda h: h.flatten(1), lambda h: F.glu(h, 1),
    lambda h: h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2), lambda h: h.unflatten(1, (-1, 2)).mean(2),
    lambda h: torch.stack([h, -h], 1).flatten(1, 2), lambda h: h.transpose(1, -1), lambda h: h.squeeze(),
    lambda h: h.view(h.size(0), 2, h.size(1) // 2, *h.shape[2:]).flatten(1, 2), lambda h: h * h.size(1),
    lambda h: h.mean(1, keepdims=True) * h, lambda h: h.reshape(-1, 2), lambda h: h.narrow(1, 0, h.size(1) - 1),
]  # fmt: skip
MAPS: list[Callable[[Tensor], Tensor]] = [
    lambda h: F.max_pool2d(h, 2), lambda h: F.avg_pool2d(h, 3, 1, 1), lambda h: F.adaptive_avg_pool2d(h, 1).flatten(1),
    lambda h: h.mean(3, keepdims=True), lambda h: h.amax((2, 3)), lambda h: h.permute(0, 2, 3, 1),
    lambda h: h.flatten(2).transpose(1, 2), lambda h: F.channel_shuffle(h, 2), lambda h: F.pixel_shuffle(h, 2),
    lambda h: F.interpolate(h, scale_factor=2), lambda h: h.max(3)[0], lambda h: F.pad(h, (1, 1, 1, 1)),
    lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(), lambda h: h.reshape(h.size(0), -1, 2, 2),
    lambda h: h.view(-1, 1, h.size(2), h.size(3)), lambda h: F.adaptive_max_pool2d(h, 2), lambda h: h[:, :, 1:],
]  # fmt: skip


def random_part(rng: random.Random, shape: torch.Size) -> nn.Module:
    """A part for tensors of this shape, which they may not go through."""
    if rng.random() < 0.5:
        return Apply(rng.choice([*EVERY, *MAPS] if len(shape) == 4 else EVERY))
    c, last, width = shape[1], shape[-1], rng.choice([2, 3, 4, 8])
    how = rng.choice(["row", "sum", "cat", "mul"])
    parts = [nn.ReLU, lambda: Gate(c), lambda: Gate(last, dim=-1), nn.Flatten, lambda: nn.GLU(1), nn.GELU]
    if len(shape) == 4:
        parts += [
            lambda: layers.Conv2d(c, width, rng.choice([1, 3]), padding=1, gate="unit"), lambda: nn.BatchNorm2d(c),
            lambda: nn.InstanceNorm2d(c), lambda: nn.Conv2d(c, c, 3, padding=1, groups=c), lambda: nn.MaxPool2d(2),
            lambda: Residual(nn.Sequential(layers.Conv2d(c, width, 1, gate="unit"), nn.Conv2d(width, c, 1))),
            lambda: Shared(
                Gate(width), nn.Conv2d(c, width, 1), nn.Conv2d(width if how == "row" else c, width, 1), how
            ),
        ]  # fmt: skip
    else:
        norm = nn.BatchNorm1d(c) if len(shape) == 2 else nn.LayerNorm(last)
        parts += [
            lambda: layers.Linear(last, width, gate="unit"), lambda: layers.Linear(last, width, gate="unit"),
            lambda: norm,
            lambda: Residual(nn.Sequential(layers.Linear(last, width, gate="unit"), nn.Linear(width, last))),
            lambda: Shared(
                Gate(width, dim=-1), nn.Linear(last, width), nn.Linear(width if how == "row" else last, width), how
            ),
        ]  # fmt: skip
    return rng.choice(parts)()


@torch.no_grad()
def random_net(seed: int) -> tuple[nn.Module, Tensor]:
    """A network whose first layer is gated, and an example for it."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    shape, first = rng.choice([
        ((2, rng.choice([4, 6]), 4), lambda: layers.Conv2d(2, rng.choice([4, 8]), 1, gate="unit")),
        ((6,), lambda: layers.Linear(6, rng.choice([4, 8]), gate="unit")),
        ((4, 6), lambda: layers.Linear(6, 4, gate="unit")),
    ])  # fmt: skip
    x = torch.randn(rng.choice([2, 3]), *shape, dtype=torch.float64)
    parts = [first().double()]
    h = parts[0](x)
    for _ in range(rng.randint(2, 7)):
        part = random_part(rng, h.shape).double().eval()
        try:
            after = part(h.clone())
        except (RuntimeError, ValueError, IndexError, GateError):  # it does not fit
            continue
        if after.dim() in (2, 3, 4) and 0 < after.numel() <= 4000:
            parts, h = [*parts, part], after
    net = nn.Sequential(*parts, nn.Conv2d(h.shape[1], 2, 1) if h.dim() == 4 else nn.Linear(h.shape[-1], 2))
    randomise_statistics(net, seed)
    return net.double().eval(), x


@torch.no_grad()
def draw(net: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Switch more entries of every gate off, but one."""
    for gate in gates_of(net).values():
        gate.theta.mul_(torch.rand(gate.size, generator=generator) < 0.6)
        if not bool(gate.theta.any()):
            gate.theta[0] = 1.0
    return off_by_mode(net)


@torch.no_grad()
def verify_same(net: nn.Module, smaller: nn.Module, inputs: list[Tensor]) -> None:
    """Both give the same for all inputs that go through the first."""
    for x in inputs:
        try:
            expected = net(x)
        except (RuntimeError, ValueError, IndexError, GateError):  # maps of another size
            continue
        torch.testing.assert_close(smaller(x), expected, rtol=1e-9, atol=1e-9)


def verify_cuts(net: nn.Module, x: Tensor, example: Tensor | None, seed: int) -> None:
    """Compacted and cut three times in a row; other modes, batches and maps."""
    generator = torch.Generator().manual_seed(seed)
    others = [(size, *x.shape[1:]) for size in (1, 2, 5)] + ([(2, 2, 8, 8), (3, 2, 5, 7)] if x.dim() == 4 else [])
    inputs = [x, *(torch.randn(shape, generator=generator, dtype=x.dtype) for shape in others)]
    for _ in range(3):
        off = draw(net, generator)
        verify_same(net, compact(net, example_input=example), inputs)
        smaller, index = shrink(net, off, may_empty=True, example_input=example)
        verify_same(net, smaller, inputs)
        if not index.folded:
            verify_same(*(trained(copy.deepcopy(part)) for part in (net, smaller)), [x])
        net = smaller


def trained(net: nn.Module) -> nn.Module:
    """In training mode, but for gates, which would draw."""
    net.train()
    for gate in gates_of(net).values():
        gate.eval()
    return net


@pytest.mark.parametrize(
    "seeds", [range(15), pytest.param(range(15, 300), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_exact_or_refused(seeds: range) -> None:
    accepted = 0
    for seed in seeds:
        net, x = random_net(seed)
        for example in (None, x):
            try:
                check_gates(net, example_input=example)
            except (GateError, TraceError):
                continue
            accepted += 1
            verify_cuts(copy.deepcopy(net), x, example, seed)
    assert accepted > len(seeds) // 3
