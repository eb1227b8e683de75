"""Linear maps that follow one another: one layer afterwards, the same values, and never a higher cost."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.graph import gates_of
from bayesprune.layers import Residual
from bayesprune.pruning import compact, cost, load, save, shrink
from tests.pruning.verify import TOLERANCE, off_by_mode, randomise_statistics, snapshot, verify_unchanged

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if isinstance(module, LAYERS)}


def switch_off(net: nn.Module, *names: str) -> nn.Module:
    """Switch off the gates of these names, or all."""
    with torch.no_grad():
        for name, gate in gates_of(net).items():
            gate.theta.fill_(0.0 if name in names or not names else 1.0)
    return net


def difference(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


def verify_fused(net: nn.Module, x: Tensor, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Values in both modes and the gradient of the inputs stay, ``net`` too; nothing costs more; twice is as once."""
    net, x = copy.deepcopy(net).to(dtype), x.to(dtype)
    for mode in (True, False):
        net.train(mode)
        before, structure = snapshot(net), str(net)
        plain = compact(net)
        verify_unchanged(net, before, structure)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        values, expected = plain(ours), copy.deepcopy(net)(theirs)
        values.sin().sum().backward()
        expected.sin().sum().backward()
        assert difference(values, expected) <= TOLERANCE[dtype]
        assert difference(ours.grad, theirs.grad) <= TOLERANCE[dtype]
    unfused = cost(shrink(net, off_by_mode(net), may_empty=True)[0], x)
    ours = cost(plain, x)
    assert ours.params <= unfused.params and ours.macs <= unfused.macs
    twice = compact(plain)
    assert twice.code == plain.code and str(twice) == str(plain)
    assert set(snapshot(plain)) <= set(snapshot(twice))
    return plain


conv = nn.Conv2d


def bypasses(*shortcuts: nn.Module) -> nn.Module:
    """Residual blocks that have these by-passes, in a row."""
    return nn.Sequential(*(Residual(copy.deepcopy(shortcut), shortcut) for shortcut in shortcuts))


def chain(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


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


# refusals -----------------------------------------------------------------------------------------------------------


def frozen(net: nn.Module) -> nn.Module:
    net[0].requires_grad_(False)
    return net


def tied(net: nn.Module) -> nn.Module:
    net[1].weight = net[0].weight
    return net


def zero_bias(net: nn.Module) -> nn.Module:
    nn.init.zeros_(net[0].bias)
    return net


def shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return chain(layer, layer, nn.Linear(4, 4))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.later(x) * x.sigmoid()


class Returned(TwoReaders):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.cat([self.later(x), x])


class Pooled(nn.Module):
    """What the average reads is read without it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = conv(4, 3, 1), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.pool(x).sum((2, 3)) + x.sin().sum((2, 3))


class FlattenedTwice(TwoReaders):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(1)
        return self.later(x) - x.cos()


class ByKeyword(TwoReaders):
    """A spelling that is not looked at."""

    def forward(self, x: Tensor) -> Tensor:
        return self.later(torch.flatten(input=self.first(x), start_dim=1))


APART: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "wide, narrow, wide": (lambda: chain(nn.Linear(10, 3), nn.Linear(3, 10)), (10,)),
    "more parameters in the bias alone": (lambda: chain(nn.Linear(2, 1), nn.Linear(1, 2, bias=False)), (2,)),
    "narrow convolutions": (lambda: chain(conv(3, 2, 3), conv(2, 9, 1)), (3, 6, 6)),
    "bias before padding": (lambda: chain(conv(4, 5, 1), conv(5, 3, 3, padding=1)), (4, 6, 5)),
    "bias before the padding of a 1x1": (lambda: chain(conv(4, 5, 1), conv(5, 3, 1, padding=1)), (4, 6, 5)),
    "padded 1x1": (lambda: chain(conv(4, 5, 1, padding=1), conv(5, 3, 3)), (4, 6, 5)),
    "strided 1x1, wide": (lambda: chain(conv(4, 5, 1, 2), conv(5, 3, 3)), (4, 9, 9)),
    "same, strided 1x1": (lambda: chain(conv(4, 5, 3, padding="same"), conv(5, 3, 1, 2)), (4, 6, 5)),
    "3x3, 3x3": (lambda: chain(conv(2, 4, 3), conv(4, 2, 3)), (2, 6, 6)),
    "positions that padding adds": (
        lambda: chain(conv(7, 6, 1, bias=False), conv(6, 1, 3, padding=2, bias=False)), (7, 1, 1)
    ),
    "groups": (lambda: chain(conv(4, 4, 1), conv(4, 4, 3, groups=2)), (4, 5, 5)),
    "groups before": (lambda: chain(conv(4, 4, 3, groups=4), conv(4, 4, 1)), (4, 5, 5)),
    "wide, flattened": (lambda: chain(conv(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)), (2, 3, 3)),
    "strided, flattened": (lambda: chain(conv(2, 3, 1, 2), nn.Flatten(), nn.Linear(12, 2)), (2, 3, 3)),
    "flattened from the second": (lambda: chain(nn.Linear(3, 4), nn.Flatten(2), nn.Linear(8, 2)), (5, 2, 3)),
    "not flattened": (lambda: chain(conv(3, 4, 1), nn.Linear(4, 2)), (3, 5, 4)),
    "activation": (lambda: chain(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), (4,)),
    "frozen": (lambda: frozen(chain(nn.Linear(4, 4), nn.Linear(4, 4))), (4,)),
    "tied": (lambda: tied(chain(nn.Linear(4, 4), nn.Linear(4, 4))), (4,)),
    "shared": (shared, (4,)),
    "two readers": (TwoReaders, (4,)),
    "output": (Returned, (4,)),
    "two readers, one an average": (Pooled, (4, 4, 4)),
    "two readers of a flattening": (FlattenedTwice, (4,)),
    "flattened by keyword": (ByKeyword, (4,)),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_layers_that_stay_apart(name: str) -> None:
    build, shape = APART[name]
    net = build()
    plain = verify_fused(net, torch.randn(3, *shape))
    assert list(layers_of(plain)) == list(layers_of(net))


POOLS: dict[str, Callable[[], nn.Module]] = {
    "padded": lambda: nn.AvgPool2d(2, padding=1),
    "divided": lambda: nn.AvgPool2d(2, divisor_override=3),
    "adaptive": lambda: nn.AdaptiveAvgPool2d(5),
    "adaptive in one": lambda: nn.AdaptiveAvgPool2d((1, None)),
    "maximum": lambda: nn.MaxPool2d(2),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("first", ["1x1", "3x3", "strided", "padded"])
def test_averages_that_stay_behind(pool: str, first: str) -> None:
    """The average over padded windows of a bias is not the bias; one that enlarges maps would cost more before."""
    build = {"1x1": (1,), "3x3": (3,), "strided": (1, 2), "padded": (1, 1, 1)}[first]
    net = chain(conv(4, 4, *build), POOLS[pool](), conv(4, 4, 1))
    plain = verify_fused(net, torch.randn(2, 4, 4, 4))
    assert [str(node.target) for node in plain.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]


def test_a_bias_of_zeros_does_not_mind_padding() -> None:
    net = zero_bias(chain(conv(4, 5, 1), conv(5, 3, 3, padding=1)))
    plain = verify_fused(net, torch.randn(3, 4, 6, 5))
    assert list(layers_of(plain)) == ["1"]


def test_positions_that_padding_adds_are_paid_for() -> None:
    """Padded by one the 3x3 convolution works where the 1x1 one did; 63 weights instead of 42 and 54."""
    net = chain(conv(7, 6, 1, bias=False), conv(6, 1, 3, padding=1, bias=False))
    assert list(layers_of(verify_fused(net, torch.randn(3, 7, 4, 4)))) == ["1"]


class Overwritten(nn.Module):
    """The input of the first layer is overwritten before the later layer is called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.later = (nn.Linear(4, 4) for _ in range(3))
        self.maps, self.out = nn.Conv1d(1, 3, 1), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        row, maps = self.first(x), self.maps(x[:, None]).flatten(1)
        x = F.relu(x, inplace=True)
        x += 1
        return torch.cat([self.later(row) + x, self.out(maps)], 1)


def test_inputs_are_read_before_they_are_overwritten() -> None:
    net, x = Overwritten().double(), torch.randn(5, 4, dtype=torch.float64)
    plain = compact(net)
    assert list(layers_of(plain)) == ["stem", "later", "out"]
    with torch.no_grad():
        assert difference(plain(x), net(x)) <= 1e-10


# laws ---------------------------------------------------------------------------------------------------------------


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


# normalisations -----------------------------------------------------------------------------------------------------


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
