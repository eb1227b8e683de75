"""Normalisations that are folded into the layers before them, and those that stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.pruning import compact
from tests.pruning.fused import bypasses, chain, conv, difference, layers_of, switch_off
from tests.pruning.verify import TOLERANCE, randomise_statistics, snapshot, verify_unchanged


def normalised(net: nn.Module, seed: int = 0) -> nn.Module:
    randomise_statistics(net, seed)
    return net.eval()


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "convolution": (
        lambda: chain(conv(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True), conv(5, 2, 1)), (3, 6, 6),
        ["0", "3"],
    ),
    "bias": (lambda: chain(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.Tanh(), nn.BatchNorm1d(5)), (3, 6), ["0"]),
    "depthwise": (lambda: chain(conv(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (4, 6, 6), ["0"]),
    "linear": (lambda: chain(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3)), (4,), ["2"]),
    "by-passes": (
        lambda: bypasses(
            chain(conv(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6)), chain(conv(6, 4, 1, bias=False), nn.BatchNorm2d(4))
        ),
        (4, 7, 8), ["1.shortcut.0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FOLDED)
def test_folded_normalisations(name: str, dtype: torch.dtype) -> None:
    build, shape, left = FOLDED[name]
    net = normalised(switch_off(build())).to(dtype)
    x = torch.randn(3, *shape, dtype=dtype)
    before, structure = snapshot(net), str(net)
    plain, with_norms = compact(net, fold_norms=True), compact(net)
    verify_unchanged(net, before, structure)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    behind_activation = [m for m in plain.modules() if isinstance(m, norms)]
    assert len(behind_activation) == (1 if name == "bias" else 0)
    assert sum(isinstance(m, norms) for m in with_norms.modules()) >= 1
    assert list(layers_of(plain)) == left
    assert all(p.requires_grad for p in plain.parameters())
    with torch.no_grad():
        assert difference(plain(x), net(x)) <= TOLERANCE[dtype]
        assert difference(with_norms(x), net(x)) <= TOLERANCE[dtype]
        if not behind_activation:
            assert difference(plain.train()(x), net(x)) <= TOLERANCE[dtype]


class ReadBefore(nn.Module):
    """The output of the layer is read without the normalisation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.norm(x) + x


def one_norm_twice() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    return chain(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 4), norm)


@pytest.mark.parametrize(
    "build",
    [
        ReadBefore,
        one_norm_twice,
        lambda: chain(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        lambda: chain(nn.Linear(4, 4), nn.Tanh(), nn.BatchNorm1d(4)),
    ],
)
def test_normalisations_that_stay(build: Callable[[], nn.Module]) -> None:
    net = normalised(build()).double()
    plain = compact(net, fold_norms=True)
    assert any(isinstance(m, nn.BatchNorm1d) for m in plain.modules())
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        assert difference(plain(x), net(x)) <= 1e-10
