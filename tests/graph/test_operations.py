"""Operations behind gates: either what is left computes what the gated network computes, or a line says why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError, TraceError
from bayesprune.graph import check_gates, gates_of
from bayesprune.layers import Gate
from bayesprune.pruning import compact, cost
from tests.graph.test_axes import Apply, some_off, verify


class Then(nn.Module):
    """A gated convolution on (B, 2, 6, 6), a function of its output (and of this module), and what reads that."""

    def __init__(self, function: Callable[..., Tensor], out: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.first = layers.Conv2d(2, channels, 3, padding=1, gate="unit")
        self.other = nn.Conv2d(2, 3, 1)
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))
        self.register_buffer("shift", torch.randn(1, channels, 1, 1))
        self.one = nn.Parameter(torch.tensor([1.5]))
        self.function = function
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, self.first(x), x))


def maps(*rest: nn.Module, channels: int = 4) -> nn.Module:
    return nn.Sequential(layers.Conv2d(2, channels, 3, padding=1, gate="unit"), nn.ReLU(), *rest)


def volumes(*rest: nn.Module) -> nn.Module:
    return nn.Sequential(Gate(4), *rest, nn.Conv3d(4, 2, 1))


def then(function: Callable[..., Tensor], width: int = 4) -> Callable[[], nn.Module]:
    return lambda: Then(lambda net, h, x: function(h), nn.Linear(width, 2))


def then_maps(function: Callable[[Then, Tensor, Tensor], Tensor], width: int = 4) -> Callable[[], nn.Module]:
    return lambda: Then(function, nn.Conv2d(width, 2, 1))


MAPS = (2, 6, 6)
EXACT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # with the parameters a gate takes along
    "nearest": (lambda: maps(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3)), MAPS, 18 + 1 + 18),
    "bilinear": (lambda: maps(nn.Upsample(size=(9, 9), mode="bilinear"), nn.Conv2d(4, 2, 3)), MAPS, 18 + 1 + 18),
    "interpolate": (then_maps(lambda net, h, x: F.interpolate(h, scale_factor=2.0, mode="bicubic")), MAPS, 18 + 1 + 2),
    "to a size": (then_maps(lambda net, h, x: F.interpolate(h, size=x.shape[2:])), MAPS, 18 + 1 + 2),
    "to its size": (then_maps(lambda net, h, x: F.interpolate(F.max_pool2d(h, 2), h.shape[-2:])), MAPS, 18 + 1 + 2),
    "transposed": (lambda: maps(nn.ConvTranspose2d(4, 3, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 1)), MAPS, 18 + 1 + 27),
    "gate on transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3, 2), nn.ReLU(), Gate(4), nn.Conv2d(4, 2, 1)), MAPS, 18 + 1 + 2,
    ),
    "its length": (then(lambda h: h.view(len(h), -1), 4 * 36), MAPS, 18 + 1 + 2 * 36),
    "zero pad": (lambda: maps(nn.ZeroPad2d(2), nn.Conv2d(4, 2, 3)), MAPS, 18 + 1 + 18),
    "reflect": (lambda: maps(nn.Sigmoid(), nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 3)), MAPS, 18 + 1 + 18),
    "constant pad": (lambda: maps(nn.Sigmoid(), nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 2, 1)), MAPS, 18 + 1 + 2),
    "F.pad": (then_maps(lambda net, h, x: F.pad(h, (1, 0, 2, 1))), MAPS, 18 + 1 + 2),
    "F.pad replicate": (then_maps(lambda net, h, x: F.pad(h, (1, 1, 1, 1), "replicate")), MAPS, 18 + 1 + 2),
    "pool 3d": (lambda: volumes(nn.MaxPool3d(2), nn.AvgPool3d(2, 1)), (4, 4, 4, 4), 2),
    "adaptive 3d": (lambda: volumes(nn.AdaptiveAvgPool3d(2)), (4, 4, 4, 4), 2),
    "gate then shuffle": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.PixelShuffle(2), nn.ReLU(), Gate(2), nn.Conv2d(2, 2, 1)),
        MAPS, 4 * 3 + 2,
    ),
    "unshuffle": (lambda: maps(nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 1)), MAPS, 18 + 1 + 8),
    "flatten(x, 1, 3)": (then(lambda h: torch.flatten(h, 1, 3), 144), MAPS, 18 + 1 + 72),
    "flatten(2)": (then(lambda h: h.flatten(2).mean(2)), MAPS, 18 + 1 + 2),
    "flatten(2), transposed": (then(lambda h: h.flatten(2).transpose(1, 2)), MAPS, 18 + 1 + 2),
    "permuted": (then(lambda h: h.permute(0, 2, 3, 1)), MAPS, 18 + 1 + 2),
    "permuted and flattened": (then(lambda h: h.permute(0, 2, 3, 1).flatten(1), 144), MAPS, 18 + 1 + 72),
    "permuted and flattened between": (then(lambda h: h.permute(0, 2, 1, 3).flatten(1), 144), MAPS, 18 + 1 + 72),
    "sum((2, 3))": (then(lambda h: h.sum((2, 3))), MAPS, 18 + 1 + 2),
    "max(2)[0]": (then(lambda h: h.max(2)[0].max(dim=-1).values), MAPS, 18 + 1 + 2),
    "squeeze": (then(lambda h: F.adaptive_max_pool2d(h, 1).squeeze(-1).squeeze(-1)), MAPS, 18 + 1 + 2),
    "unsqueeze": (then(lambda h: h.unsqueeze(2).mean((2, 3, 4))), MAPS, 18 + 1 + 2),
    "[:, :, 0]": (then(lambda h: h[:, :, 0, -1]), MAPS, 18 + 1 + 2),
    "[:, :, ::2, None, 1:]": (then(lambda h: h[:, :, ::2, None, 1:].mean((2, 3, 4))), MAPS, 18 + 1 + 2),
    "[..., 0]": (then(lambda h: h[..., 0][..., -1]), MAPS, 18 + 1 + 2),
    "[:, None]": (then(lambda h: torch.sigmoid(h)[:, None, :, 1].mean((1, 3))), MAPS, 18 + 1 + 2),
    "[:, 3] of steps": (then(lambda h: h.flatten(2).transpose(1, 2)[:, 3]), MAPS, 18 + 1 + 2),
    "squeeze and excite": (
        then_maps(lambda net, h, x: h * torch.sigmoid(h.mean((2, 3)))[:, :, None, None]), MAPS, 18 + 1 + 2,
    ),
    "a number that is learned": (then_maps(lambda net, h, x: h * net.one), MAPS, 18 + 1 + 2),
    "scale": (then_maps(lambda net, h, x: h * net.scale), MAPS, 18 + 1 + 1 + 2),
    "scale twice": (then_maps(lambda net, h, x: net.scale * F.relu(h * net.scale)), MAPS, 18 + 1 + 1 + 2),
    "bias": (then_maps(lambda net, h, x: h + net.shift), MAPS, 0),
    "mask": (then_maps(lambda net, h, x: h * x.mean(1, keepdim=True)), MAPS, 18 + 1 + 2),
    "cat with inputs": (then_maps(lambda net, h, x: torch.cat([x, h], 1), 6), MAPS, 18 + 1 + 2),
    "cat with a layer": (then_maps(lambda net, h, x: torch.cat([net.other(x), h], dim=1), 7), MAPS, 18 + 1 + 2),
    "log1p": (then_maps(lambda net, h, x: torch.log1p(h.abs()).expm1()), MAPS, 18 + 1 + 2),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    build, shape, gone = EXACT[name]
    for seed in range(2):
        torch.manual_seed(seed)
        net, x = build(), torch.randn(3, *shape)
        some_off(net, seed)
        verify(net, x, x)
    left = []
    for first in (1.0, 0.0):
        for gate in gates_of(net).values():
            with torch.no_grad():
                gate.theta.fill_(1.0)[0] = first
        left.append(cost(compact(net, example_input=x)).params)
    assert left[0] - left[1] == gone


class Sequence(nn.Module):
    """Features of (B, 5, 4) after a gated layer, averaged over time."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.out = layers.Linear(3, 4, gate="unit"), nn.Linear(4, 2)
        self.scale, self.function = nn.Parameter(torch.randn(4)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, h: h.mean(1),
        lambda net, h: h.sum(1),
        lambda net, h: h.amax(-2),
        lambda net, h: (h * net.scale).max(1)[0],
        lambda net, h: h.transpose(1, 2).mean(-1),
        lambda net, h: h.unsqueeze(1).squeeze(1).mean(1),
    ],
)
def test_sequences(function: Callable[..., Tensor]) -> None:
    net, x = Sequence(function), torch.randn(3, 5, 3)
    for seed in range(3):
        some_off(net, seed)
        verify(net, x, x)
    with pytest.raises(GateError, match="example_input"):
        check_gates(Sequence(function))


def test_a_parameter_along_the_last_dimension_needs_no_example() -> None:
    net = Sequence(lambda net, h: h * net.scale + net.scale)
    for x in (torch.randn(3, 3), torch.randn(3, 5, 3)):
        some_off(net, 1)
        verify(net, x)


def test_a_sum_over_gated_steps() -> None:
    """Steps that are zero add nothing to a sum over time; a mean would change its denominator."""
    net, x = nn.Sequential(Gate(5), nn.ReLU(), Apply(lambda h: h.sum(1)), nn.Linear(3, 2)), torch.randn(2, 5, 3)
    for seed in range(4):
        some_off(net, seed)
        verify(net, x, x)
    net[2] = Apply(lambda h: h.mean(1))
    with pytest.raises(GateError, match="reaches mean, which does not run over the space of maps alone"):
        check_gates(net, example_input=x)


def test_channels_before_shuffled_pixels_go_in_groups() -> None:
    """One of a group that is off stays as zeros; a group that is off as a whole goes."""
    net, x = maps(nn.PixelShuffle(2), nn.Conv2d(2, 2, 1), channels=8), torch.randn(2, *MAPS)
    with torch.no_grad():
        net[0].gate.theta.copy_(torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0]))
    plain = verify(net, x)
    assert plain.get_submodule("0").out_channels == 4 and plain.get_submodule("3").in_channels == 1


class UNet(nn.Module):
    """Down, up again, and joined with what was skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = layers.Conv2d(2, 4, 3, padding=1, gate="unit")
        self.down = layers.Conv2d(4, 6, 3, 2, padding=1, gate="unit")
        self.up, self.gate = nn.ConvTranspose2d(6, 5, 2, 2), Gate(5)
        self.out = nn.Conv2d(4 + 5 + 6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.skip(x))
        down = F.relu(self.down(skip))
        up = self.gate(F.relu(self.up(down)))
        return self.out(torch.cat([up, skip, F.interpolate(down, size=skip.shape[2:], mode="bilinear")], 1))


def test_a_network_that_joins_scales() -> None:
    net, x = UNet(), torch.randn(2, *MAPS)
    for seed in range(3):
        some_off(net, seed)
        plain = verify(net, x)
        left = sum(int(gate.mode().sum()) for gate in gates_of(net).values())
        assert plain.get_submodule("out").in_channels == left


class Heads(nn.Module):
    """Attention whose heads are gated."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gate, self.out = nn.Linear(6, 36), Gate(4), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.qkv(x)[..., i : i + 12].unflatten(-1, (4, 3)).transpose(1, 2) for i in (0, 12, 24))
        return self.out(self.gate(F.scaled_dot_product_attention(q, k, v)).transpose(1, 2).flatten(2))


def test_heads() -> None:
    """The columns that read a head go with it."""
    net, x = Heads(), torch.randn(2, 5, 6)
    for seed in range(3):
        some_off(net, seed)
        assert verify(net, x, x).get_submodule("out").in_features == 3 * int(net.gate.mode().sum())


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.first, self.function, self.out = layers.Conv2d(2, 4, 3, gate="unit"), function, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            Net(lambda h: h.view(-1, 4 * 16), 64),
            r"reaches view with sizes that are written out .*torch\.flatten",
        ),
        (Net(lambda h: h.view(1, 64), 64), r"reaches view with sizes that are written out"),
        (Net(lambda h: h.reshape(h.shape[0], 64), 64), r"reaches reshape with sizes that are written out"),
        (Net(lambda h: h[:, :2].flatten(1), 32), "reaches getitem"),
        (Net(lambda h: h[:, [0, 1, 2, 3]].flatten(1), 64), "reaches getitem"),
        (Net(lambda h: h[None, :, 0].flatten(2), 16), "reaches getitem"),
        (Net(lambda h: h.log().flatten(1), 64), "leaves a constant that is not carried through log"),
        (Net(lambda h: h.max(1)[0].flatten(1), 16), "reaches max, which does not run over the space of maps alone"),
        (Net(lambda h: h.max(2)[1].float().flatten(1), 16), "reaches getitem, through which"),
        (Net(lambda h: F.pad(h, (0, 0, 0, 0, 1, 1)).flatten(1), 96), "pads along its features"),
        (maps(nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)), "a GroupNorm, which takes its zeros into statistics of others"),
        (maps(nn.Sigmoid(), nn.ConvTranspose2d(4, 2, 3)), r"constant 0\.5 .* 3 does not spread the constant"),
        (maps(nn.Sigmoid(), nn.ZeroPad2d(1), nn.Conv2d(4, 2, 1)), "leaves a constant that is not carried through 3"),
    ],
)
def test_refused(net: nn.Module, message: str) -> None:
    for example in (None, torch.randn(3, *MAPS)):
        with pytest.raises(GateError, match=message):
            check_gates(net, example_input=example)


def test_the_length_of_a_tensor_where_no_forward_pass_is_written() -> None:
    elsewhere = eval("lambda h: h.view(len(h), -1)", {})
    with pytest.raises(TraceError, match=r"write x\.shape\[0\] for len\(x\)"):
        check_gates(Net(elsewhere, 64))
