"""Linear maps that follow one another: one layer afterwards, the same values, and never a higher cost."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bayesprune.graph import gates_of
from bayesprune.layers import Residual
from bayesprune.pruning import compact, cost, load, save, shrink
from tests.pruning.fused import bypasses, chain, conv, layers_of, switch_off, verify_fused
from tests.pruning.verify import off_by_mode

LEFT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {  # network, example, layers afterwards
    "linear": (lambda: bypasses(nn.Linear(6, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 4)), (6,), ["2.shortcut"]),
    "sequence": (lambda: bypasses(nn.Linear(6, 5, bias=False), nn.Linear(5, 3)), (4, 6), ["1.shortcut"]),
    "strided": (lambda: bypasses(conv(4, 4, 1, 2), conv(4, 3, 1, 2), conv(3, 3, 1)), (4, 9, 7), ["2.shortcut"]),
    "wide, 1x1": (lambda: bypasses(conv(3, 6, 3, 2, 1), conv(6, 4, 1, 3)), (3, 11, 8), ["1.shortcut"]),
    "reflected, 1x1": (
        lambda: chain(conv(3, 6, 3, padding=2, padding_mode="reflect"), conv(6, 4, 1)), (3, 7, 6), ["1"],
    ),
    "same, 1x1": (lambda: chain(conv(3, 6, (4, 3), padding="same", dilation=2), conv(6, 4, 1)), (3, 9, 8), ["1"]),
    "1x1, valid": (lambda: bypasses(conv(6, 6, 1), conv(6, 4, 3, 2, dilation=2)), (6, 9, 8), ["1.shortcut"]),
    "1x1, circular": (
        lambda: chain(conv(4, 5, 1), conv(5, 3, 3, padding=1, padding_mode="circular")), (4, 6, 5), ["1"],
    ),
    "1x1, padded": (lambda: bypasses(conv(4, 5, 1, bias=False), conv(5, 3, 3, 2, 1)), (4, 6, 5), ["1.shortcut"]),
    "1x1, same": (
        lambda: chain(conv(4, 5, 1, bias=False, padding="same"), conv(5, 3, (3, 1), padding="same")), (4, 6, 5), ["1"],
    ),
    "1x1, average, 1x1": (lambda: chain(conv(6, 5, 1), nn.AvgPool2d(3, 2), conv(5, 4, 1)), (6, 8, 7), ["2"]),
    "1x1, average, wide": (
        lambda: chain(conv(6, 6, 1), nn.AvgPool2d(2, ceil_mode=True), conv(6, 4, 3)), (6, 9, 7), ["2"],
    ),
    "1x1, average": (lambda: chain(conv(6, 5, 1), nn.AvgPool2d(2), nn.Tanh(), conv(5, 4, 1)), (6, 8, 7), ["0", "3"]),
    "head": (
        lambda: chain(conv(6, 5, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
        (6, 8, 6), ["4"],
    ),
    "maps, flattened": (lambda: chain(conv(3, 4, 1), nn.Flatten(), nn.Linear(4 * 6, 5)), (3, 2, 3), ["2"]),
    "sequence, flattened": (lambda: chain(nn.Linear(3, 4), nn.Flatten(), nn.Linear(4 * 6, 5)), (6, 3), ["2"]),
    "one dimension": (
        lambda: chain(nn.Conv1d(5, 4, 1), nn.AvgPool1d(2), nn.Conv1d(4, 4, 3), nn.Identity(), nn.Conv1d(4, 3, 1, 2)),
        (5, 16), ["4"],
    ),
    "three dimensions": (
        lambda: chain(nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 3, 1), nn.Tanh(), nn.Conv3d(3, 2, 1), nn.AvgPool3d(2),
        nn.Conv3d(2, 1, 1)), (2, 4, 5, 6), ["1", "5"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_of_a_row(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    build, shape, left = LEFT[name]
    net, x = switch_off(build()), torch.randn(3, *shape)
    plain = verify_fused(net, x, dtype)
    assert list(layers_of(plain)) == left
    save(plain, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(again(x.to(dtype)), plain(x.to(dtype)))


@pytest.mark.parametrize("off", [(), ("1",), ("2",), ("1", "2"), ("2", "3")])
def test_rows_end_at_branches_that_are_on(off: tuple[str, ...]) -> None:
    """By-passes in a row, with some of the branches on: those neither end at nor begin behind a single map."""
    blocks = [Residual(chain(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 6)) for _ in range(3)]
    net = switch_off(chain(nn.Linear(5, 6), *blocks, nn.Linear(6, 2)), *(off or ("no gate",)))
    plain = verify_fused(net, torch.randn(4, 5))
    on = [str(i) for i in (1, 2, 3) if str(i) not in off]
    rows = {(): 5, ("1",): 4, ("2",): 5, ("1", "2"): 3, ("2", "3"): 3}[off]  # without the layers of branches
    assert len(layers_of(plain)) == rows + len(on)
    assert {name for name, _ in plain.named_parameters()} <= {name for name, _ in net.named_parameters()}


def test_multiply_adds_by_hand() -> None:
    """A stem, two by-passes that halve 8x8 maps, a head: one strided 3x3 convolution of 3 to 4 channels, one layer."""
    net = chain(
        conv(3, 8, 3, padding=1, bias=False),
        Residual(conv(8, 6, 3, 2, 1), conv(8, 6, 1, 2, bias=False)),
        Residual(conv(6, 4, 3, 2, 1), conv(6, 4, 1, 2)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    switch_off(net)
    x = torch.randn(2, 3, 8, 8)
    plain = verify_fused(net, x, torch.float32)
    unfused = cost(shrink(net, off_by_mode(net))[0], x)
    assert unfused.params == 8 * 3 * 9 + 6 * 8 + (4 * 6 + 4) + (5 * 4 + 5)
    assert unfused.macs == 64 * 8 * 3 * 9 + 16 * 6 * 8 + 4 * 4 * 6 + 5 * 4
    left = plain.get_submodule("2.shortcut")
    assert (left.kernel_size, left.stride, left.padding) == ((3, 3), (4, 4), (1, 1))
    assert cost(plain, x).params == (4 * 3 * 9 + 4) + (5 * 4 + 5)
    assert cost(plain, x).macs == 4 * 4 * 3 * 9 + 5 * 4


def test_an_average_goes_first_where_that_is_cheaper() -> None:
    net = chain(conv(6, 5, 1), nn.AvgPool2d(2), nn.ReLU(inplace=True), conv(5, 3, 1))
    x = torch.randn(2, 6, 8, 8)
    plain = verify_fused(net, x, torch.float32)
    assert cost(plain, x).macs == 16 * (6 * 5 + 5 * 3) < cost(net, x).macs == 64 * 6 * 5 + 16 * 5 * 3


def random_row(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Convolutions, averages and identities in any order, flattened, and linear layers; some of it gated."""
    rng = random.Random(seed)
    channels = first = rng.randint(1, 5)
    size, parts = 12, []
    for _ in range(rng.randint(1, 6)):
        width, bias = rng.randint(1, 6), rng.random() < 0.5
        kind = rng.choice(["1x1", "1x1", "1x1", "3x3", "average", "bypass", "tanh"])
        if kind == "average" and size >= 4:
            parts.append(rng.choice([nn.AvgPool2d(2), nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(2, padding=1)]))
        elif kind == "tanh":
            parts.append(rng.choice([nn.Tanh(), nn.Identity()]))
        elif kind == "bypass":
            stride = rng.choice([1, 2])
            parts.append(Residual(conv(channels, width, 3, stride, 1), conv(channels, width, 1, stride, bias=bias)))
            channels = width
        elif kind != "average":
            mode = rng.choice(["zeros", "zeros", "replicate"])
            options = {"padding": rng.choice([0, 1]), "bias": bias, "padding_mode": mode}
            parts.append(conv(channels, width, 1 if kind == "1x1" else 3, rng.choice([1, 2]), **options))
            channels = width
        with torch.no_grad():
            size = nn.Sequential(*parts)(torch.zeros(1, first, 12, 12)).shape[-1]
        if size < 4:
            break
    if rng.random() < 0.3:
        parts.append(nn.AdaptiveAvgPool2d(1))
        size = 1
    features = channels * size * size
    parts.append(nn.Flatten())
    for _ in range(rng.randint(1, 3)):
        width = rng.randint(1, 8)
        parts.append(nn.Linear(features, width, bias=rng.random() < 0.5))
        features = width
    net = nn.Sequential(*parts)
    switch_off(net, *[name for name in gates_of(net) if rng.random() < 0.7] or ["no gate"])
    return net, (first, 12, 12)


@pytest.mark.parametrize("seed", range(40))
def test_random_rows(seed: int) -> None:
    torch.manual_seed(seed)
    net, shape = random_row(seed)
    verify_fused(net, torch.randn(2, *shape))


def test_random_rows_are_fused_often() -> None:
    fused = 0
    for seed in range(40):
        net, _ = random_row(seed)
        fused += len(layers_of(compact(net))) < len(layers_of(shrink(net, off_by_mode(net), may_empty=True)[0]))
    assert 20 <= fused < 40


def test_no_random_number_is_drawn() -> None:
    net = LEFT["strided"][0]()
    before = torch.get_rng_state()
    compact(switch_off(net))
    assert torch.equal(torch.get_rng_state(), before)


def test_rounded_once() -> None:
    """Each weight is the float32 number next to the product in float64."""
    net = chain(nn.Linear(40, 60), nn.Linear(60, 30))
    plain = compact(net)
    first, later = (layer.weight.detach().double() for layer in net)
    assert torch.equal(plain.get_parameter("1.weight"), (later @ first).float())


def test_what_is_fused_trains_on() -> None:
    plain = compact(switch_off(bypasses(nn.Linear(6, 5), nn.Linear(5, 4))).train())
    plain(torch.randn(3, 6)).sum().backward()
    assert plain.training and all(p.requires_grad and p.grad is not None for p in plain.parameters())
    net = bypasses(nn.Linear(6, 5), nn.Linear(5, 4)).requires_grad_(False)
    assert not any(p.requires_grad for p in compact(switch_off(net)).parameters())
