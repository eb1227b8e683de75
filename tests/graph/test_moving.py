"""Operations that only move entries: what may go behind them, what goes together, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError
from bayesprune.graph import Analysis, check_gates, gates_of, trace
from bayesprune.layers import Gate
from bayesprune.pruning import ExpectedCost, compact, cost
from tests.graph.test_axes import some_off, verify

C, SIZE = 8, 6
EACH = [{k} for k in range(C)]
HALVES = [{k, k + 4} for k in range(4)]
PAIRS = [{k, k + 1} for k in range(0, C, 2)]
BLOCKS = [{0, 1, 2, 3}, {4, 5, 6, 7}]
QUARTERS = [{k, k + 2, k + 4, k + 6} for k in range(2)]


class Moved(nn.Module):
    """A gated convolution with 8 maps on (B, 2, 6, 6), a function of what it gives, and what reads that."""

    def __init__(self, function: Callable[[Tensor], Tensor], out: nn.Module) -> None:
        super().__init__()
        self.first, self.function, self.out = layers.Conv2d(2, C, 1, gate="unit"), function, out

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(F.relu(self.first(x))))


def shuffled(h: Tensor) -> Tensor:
    b, c, rows, columns = h.shape
    return h.view(b, 2, c // 2, rows, columns).transpose(1, 2).reshape(b, c, rows, columns)


def shuffled_back_to_minus_one(h: Tensor) -> Tensor:
    b, c, rows, columns = h.size()
    return torch.transpose(h.reshape(b, 4, c // 4, rows, columns), 1, 2).contiguous().view(b, -1, rows, columns)


def gated_linear_unit(h: Tensor) -> Tensor:
    a, b = h.chunk(2, dim=1)
    return a * torch.sigmoid(b)


def windows(h: Tensor) -> Tensor:
    """Windows of 2 x 3 become examples, as in Swin transformers, and maps again."""
    b, rows, columns, c = h.permute(0, 2, 3, 1).shape
    h = h.permute(0, 2, 3, 1).view(b, rows // 2, 2, columns // 3, 3, c)
    parts = torch.tanh(h.permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, c))
    h = parts.view(b, rows // 2, columns // 3, 2, 3, -1).permute(0, 1, 3, 2, 4, 5)
    return h.reshape(b, rows, columns, -1)


def tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def heads(sizes: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Features into heads, which become the second dimension, and back."""
    return lambda h: tokens(h).unflatten(-1, sizes).transpose(1, 2).relu().movedim(1, 2).flatten(2)


def picked(parts: Any, *places: int) -> list[Tensor]:
    """Some of the parts of a tensor: older releases of torch do not trace functions of all of them."""
    return [parts[place] for place in places]


def conv(width: int = C) -> nn.Module:
    return nn.Conv2d(width, 2, 1)


Case = tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module], list[set[int]], int]
FREE: dict[str, Case] = {  # with what goes together, and the parameters behind that one group takes along
    "permute, the batch in the middle": (lambda h: h.permute(1, 0, 2, 3).tanh().permute(1, 0, 2, 3), conv, EACH, 2),
    "movedim": (lambda h: h.movedim(1, -1), lambda: nn.Linear(C, 2), EACH, 2),
    "moveaxis": (lambda h: torch.moveaxis(h, (1, 2), (3, 1)), lambda: nn.Linear(C, 2), EACH, 2),
    "flip of channels": (lambda h: h.flip(1), conv, EACH, 2),
    "flip of space": (lambda h: torch.flip(h, (2, 3)), conv, EACH, 2),
    "roll over space": (lambda h: torch.roll(h, (1, -2), (2, 3)), conv, EACH, 2),
    "rot90": (lambda h: torch.rot90(h, 1, (2, 3)), conv, EACH, 2),
    "narrow in space": (lambda h: h.narrow(2, 1, 3), conv, EACH, 2),
    "select in space": (lambda h: h.select(2, 1).mean(2), lambda: nn.Linear(C, 2), EACH, 2),
    "unbind of space": (lambda h: torch.stack(picked(h.unbind(2)[1:], 1, 3, 0), 2), conv, EACH, 2),
    "one of unbind": (lambda h: h.unbind(-1)[3].amax(2), lambda: nn.Linear(C, 2), EACH, 2),
    "stack": (lambda h: torch.stack([h, h.neg()], 2).flatten(2, 3), conv, EACH, 2),
    "stack along channels": (lambda h: torch.stack([h, h.exp() - 1], 1).flatten(1, 2), lambda: conv(16), EACH, 4),
    "chunk of space": (lambda h: torch.cat(picked(h.chunk(3, 2), 2, 1, 0), 2), conv, EACH, 2),
    "expand": (lambda h: h.mean((2, 3), keepdim=True).expand(-1, -1, 3, 3), conv, EACH, 2),
    "expand_as": (lambda h: h * h.mean((2, 3), keepdim=True).expand_as(h), conv, EACH, 2),
    "repeat of channels": (lambda h: h.repeat(1, 2, 1, 1), lambda: conv(16), EACH, 4),
    "tile": (lambda h: torch.tile(h, (1, 3, 1, 2)), lambda: conv(24), EACH, 6),
    "repeat_interleave": (lambda h: h.repeat_interleave(2, dim=1), lambda: conv(16), EACH, 4),
    "unfold": (lambda h: h.unfold(2, 3, 1).mean(-1), conv, EACH, 2),
    "view(b, -1)": (lambda h: h.view(h.shape[0], -1), lambda: nn.Linear(288, 2), EACH, 72),
    "view(b, c * 36)": (lambda h: h.view(h.shape[0], h.shape[1] * 36), lambda: nn.Linear(288, 2), EACH, 72),
    "reshape(b, c * y * x)": (
        lambda h: h.reshape(h.size(0), h.size(1) * h.size(2) * h.size(3)), lambda: nn.Linear(288, 2), EACH, 72,
    ),
    "view(b, c, -1)": (lambda h: h.view(h.shape[0], h.shape[1], -1).sum(2), lambda: nn.Linear(C, 2), EACH, 2),
    "view(-1, c, 36)": (lambda h: h.view(-1, h.shape[1], 36), lambda: nn.Conv1d(C, 2, 1), EACH, 2),
    "view(b, -1, 36)": (lambda h: h.view(h.shape[0], -1, 36), lambda: nn.Conv1d(C, 2, 1), EACH, 2),
    "view(shape[:2] + (-1,))": (
        lambda h: h.view(h.shape[:2] + (-1,)), lambda: nn.Conv1d(C, 2, 1), EACH, 2,  # noqa: RUF005
    ),
    "flatten(1, 2)": (lambda h: h.flatten(1, 2).mean(2), lambda: nn.Linear(48, 2), EACH, 12),
    "unflatten of space": (lambda h: h.flatten(2).unflatten(2, (6, 6)), conv, EACH, 2),
    "mT": (lambda h: h.flatten(2).mT.tanh(), lambda: nn.Linear(C, 2), EACH, 2),
    "tokens, flattened": (lambda h: tokens(h).flatten(1), lambda: nn.Linear(288, 2), EACH, 72),
    "windows": (windows, lambda: nn.Linear(C, 2), EACH, 2),
    "view_as": (lambda h: h.flatten(1).view_as(h), conv, EACH, 2),
    "flattened between others": (lambda h: h.permute(0, 2, 1, 3).flatten(1), lambda: nn.Linear(288, 2), EACH, 72),
}  # fmt: skip
TIED: dict[str, Case] = {
    "chunk": (lambda h: h.chunk(2, 1)[1] - h.chunk(2, 1)[0], lambda: conv(4), HALVES, 2),
    "chunk in four": (lambda h: torch.cat(picked(h.chunk(4, dim=1), 3, 2, 1, 0), 1), conv, QUARTERS, 8),
    "tensor_split": (
        lambda h: torch.stack(picked(torch.tensor_split(h, 2, 1), 0, 1), 2).sum(2), lambda: conv(4), HALVES, 2,
    ),
    "split by a size of its own": (lambda h: h.split(h.shape[1] // 2, dim=1)[0], lambda: conv(4), HALVES, 2),
    "halves": (lambda h: h[:, : h.shape[1] // 2] - h[:, h.shape[1] // 2 :], lambda: conv(4), HALVES, 2),
    "[:, ::2]": (lambda h: h[:, ::2].neg() + h[:, 1::2], lambda: conv(4), PAIRS, 2),
    "channel shuffle": (shuffled, conv, HALVES, 4),
    "channel shuffle, by hand, in four": (shuffled_back_to_minus_one, conv, QUARTERS, 8),
    "ChannelShuffle": (nn.ChannelShuffle(2), conv, HALVES, 4),
    "channel_shuffle": (lambda h: F.channel_shuffle(h, 4), conv, QUARTERS, 8),
    "two heads": (heads((2, -1)), lambda: nn.Linear(C, 2), HALVES, 4),
    "heads of four": (heads((-1, 4)), lambda: nn.Linear(C, 2), BLOCKS, 8),
    "view(b, 2, 2, -1)": (lambda h: h.view(h.shape[0], 2, 2, -1).flatten(1), lambda: nn.Linear(288, 2), QUARTERS, 288),
    "roll by a half": (lambda h: h.roll(h.shape[1] // 2, 1), conv, HALVES, 4),
}  # fmt: skip


def group_off(net: nn.Module, *entries: int) -> None:
    with torch.no_grad():
        gate = gates_of(net)["first"]
        gate.theta.fill_(1.0)
        gate.theta[list(entries)] = 0.0


@pytest.mark.parametrize("name", [*FREE, *TIED])
def test_what_is_off_goes_with_what_it_is_tied_to(name: str) -> None:
    """Outputs stay; a group goes as a whole, with what reads it, and stays as a whole otherwise."""
    function, out, groups, behind = {**FREE, **TIED}[name]
    torch.manual_seed(0)
    net, x = Moved(function, out()), torch.randn(3, 2, SIZE, SIZE)
    some_off(net, 1)
    verify(net, x, x)
    group_off(net)
    dense = cost(compact(net, example_input=x)).params
    for group in groups[-1:]:
        group_off(net, *group)
        assert dense - cost(verify(net, x, x)).params == 3 * len(group) + behind
        if len(group) > 1:
            group_off(net, *sorted(group)[1:])
            assert verify(net, x, x).get_submodule("first").out_channels == C


def test_halves_that_are_multiplied_go_with_either() -> None:
    """A gated linear unit: what is multiplied by zero is not needed; what is multiplied by a half is."""
    net, x = Moved(gated_linear_unit, conv(4)), torch.randn(3, 2, SIZE, SIZE)
    for seed in range(2):
        some_off(net, seed)
        verify(net, x, x)
    for entry, left in ((1, (6, 3)), (5, (8, 4))):
        group_off(net, entry)
        plain = verify(net, x, x)
        assert (plain.get_submodule("first").out_channels, plain.get_submodule("out").in_channels) == left


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "view(-1, 288)": (lambda h: h.view(-1, 288), 288, "reaches view with sizes that are written out"),
    "view(b, 288)": (lambda h: h.view(h.shape[0], 288), 288, "reaches view with sizes that are written out"),
    "view(b, 2, 4, 6, 6)": (lambda h: h.view(h.shape[0], 2, 4, 36).sum(1).flatten(1), 144, "reaches view with"),
    "unflatten, written out": (lambda h: h.unflatten(1, (2, 4)).flatten(1), 288, "reaches unflatten, which mixes"),
    "a part, written out": (lambda h: h[:, 2:6].flatten(1), 144, "reaches getitem, which mixes entries, or"),
    "narrow": (lambda h: h.narrow(1, 0, 4).flatten(1), 144, "reaches narrow, which mixes entries, or would"),
    "squeeze of whatever is 1": (lambda h: h.mean((2, 3), keepdim=True).squeeze(), 8, "reaches squeeze, which mixes"),
    "select": (lambda h: h.select(1, 0).flatten(1), 36, "reaches select, which mixes"),
    "one channel": (lambda h: h[:, 0].flatten(1), 36, "reaches getitem"),
    "split, written out": (lambda h: h.split(4, 1)[0].flatten(1), 144, "reaches getitem"),
    "split in unequal parts": (lambda h: h.split([2, 6], 1)[1].flatten(1), 216, "reaches getitem"),
    "unbind of channels": (lambda h: h.unbind(1)[0].flatten(1), 36, "reaches getitem"),
    "roll of channels": (lambda h: h.roll(1, 1).flatten(1), 288, "reaches roll, which mixes"),
    "channels and examples mixed": (
        lambda h: h.reshape(h.shape[1], h.shape[0], 36).transpose(0, 1).flatten(1), 288, "reaches reshape",
    ),
    "a size for something else": (lambda h: (h * h.shape[1]).flatten(1), 288, "has its shape read in forward"),
    "parts for something else": (lambda h: torch.atleast_3d(h.chunk(2, 1))[0].flatten(1), 144, "reaches chunk"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, width, message = REFUSED[name]
    net, x = Moved(function, nn.Linear(width, 2)), torch.randn(3, 2, SIZE, SIZE)
    net(x)
    with pytest.raises(GateError, match=message):
        check_gates(net, example_input=x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda h: h.chunk(2, 1)[0], "reaches chunk, through which"),
        (nn.ChannelShuffle(2), "reaches function, a ChannelShuffle"),
        (shuffled, "has its shape read in forward"),
        (lambda h: h.movedim(1, -1).movedim(-1, 1), "reaches movedim"),
    ],
)
def test_without_an_example_nothing_is_run(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(GateError, match=message):
        check_gates(Moved(function, conv()))


def test_constants_are_moved_too() -> None:
    """A half, which a sigmoid makes of 0, goes through what moves it into the bias behind."""
    net = Moved(lambda h: torch.sigmoid(h - 0.0).movedim(1, -1).roll(1, 2), nn.Linear(C, 2))
    x = torch.randn(3, 2, SIZE, SIZE)
    for seed in range(2):
        some_off(net, seed)
        plain = verify(net, x, x)
        assert plain.get_submodule("out").in_features == int(net.first.gate.mode().sum())
    net = Moved(lambda h: shuffled(torch.sigmoid(h)), conv())
    for entries, left in (((1,), C), ((1, 5), C - 2)):
        group_off(net, *entries)
        assert verify(net, x, x).get_submodule("out").in_channels == left


@pytest.mark.parametrize("name", ["windows", "stack along channels", "view(b, c * 36)", "tile"])
def test_expected_cost_is_that_of_what_is_left(name: str) -> None:
    """Where no entries go together, expected cost is multilinear in θ, and exact at its corners."""
    function, out, _, _ = FREE[name]
    net, x = Moved(function, out()), torch.randn(3, 2, SIZE, SIZE)
    expected = ExpectedCost(net, x)
    for entries in ((), (0,), (1, 2, 5)):
        group_off(net, *entries)
        left = cost(compact(net, example_input=x), x)
        found = expected({"first": net.first.gate.theta.detach()})
        assert {key: float(value) for key, value in found.items()} == {"params": left.params, "macs": left.macs}


class Excited(nn.Module):
    """Squeeze and excitation as it is mostly written: sizes are read of one tensor and given to another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Conv2d(2, C, 3, padding=1, gate="unit")
        self.squeeze, self.excite, self.out = nn.Linear(C, 4), nn.Linear(4, C), nn.Conv2d(C, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        b, c, _, _ = h.size()
        y = F.adaptive_avg_pool2d(h, 1).view(b, c)
        y = torch.sigmoid(self.excite(F.relu(self.squeeze(y)))).view(b, c, 1, 1)
        return self.out(h * y.expand_as(h))


def test_sizes_of_another_tensor() -> None:
    net, x = Excited(), torch.randn(3, 2, SIZE, SIZE)
    for seed in range(2):
        some_off(net, seed)
        plain, left = verify(net, x, x), int(net.first.gate.mode().sum())
        assert plain.get_submodule("squeeze").in_features == plain.get_submodule("excite").out_features == left


class Unit(nn.Module):
    """A unit of ShuffleNet: half of the channels go through a gated branch, and all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            layers.Conv2d(width, 6, 1, gate="unit"), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6),
            nn.Conv2d(6, width, 1), nn.BatchNorm2d(width), nn.ReLU(), Gate(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return shuffled(torch.cat((a, self.branch(b)), dim=1))


def test_a_shuffle_network() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), Gate(8), Unit(4), Unit(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    x = torch.randn(3, 2, SIZE, SIZE)
    for seed in range(2):
        torch.manual_seed(seed)
        some_off(net, seed)
        verify(net, x, x)
    for gate in gates_of(net).values():
        with torch.no_grad():
            gate.theta.fill_(1.0)[: gate.size // 2] = 0.0
    dense = cost(net).params
    assert cost(verify(net, x, x)).params < dense


# random chains ------------------------------------------------------------------------------------------------------


def random_move(rng: random.Random, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """One operation that tensors of this shape go through, with any number of examples; its sizes may be literal."""
    rank = len(shape)
    a = rng.randrange(1, rank)
    k = rng.choice([k for k in range(1, shape[a] + 1) if shape[a] % k == 0])
    moves: list[Callable[[Tensor], Tensor]] = [
        lambda h: h.flip(a), lambda h: h.unflatten(a, (k, -1)), lambda h: h.unflatten(a, (-1, k)),
        lambda h: h.chunk(k, a)[-1], lambda h: torch.cat(picked(h.chunk(k, a), *range(k)[::-1]), a),
        lambda h: h.unsqueeze(a),
        lambda h: h.repeat_interleave(2, a), lambda h: h.roll(1, a), lambda h: torch.cat([h, -h], a),
        lambda h: h.narrow(a, 0, h.shape[a] // k), lambda h: torch.stack([h, h], a), lambda h: h.unfold(a, 1, 1),
        lambda h: h.reshape(h.shape[0], *shape[:0:-1]), lambda h: h.movedim(0, a).tanh().movedim(a, 0),
    ]  # fmt: skip
    if rank > 2:
        b = rng.choice([dim for dim in range(1, rank) if dim != a])
        moves += [
            lambda h: h.transpose(a, b), lambda h: h.flatten(1, 2), lambda h: h.flatten(-2), lambda h: h.select(a, 0),
            lambda h: h.transpose(a, b).reshape(h.shape),
        ]  # fmt: skip
    return rng.choice(moves)


def random_chain(seed: int) -> tuple[Moved, Tensor]:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    h, moves = torch.zeros(1, C, 2, 3), []
    for _ in range(rng.randint(1, 5)):
        if h.dim() < 7 and h.numel() < 500:
            moves.append(random_move(rng, h.shape))
            h = moves[-1](h)

    def chain(h: Tensor) -> Tensor:
        for move in moves:
            h = move(h)
        return h.flatten(1)

    return Moved(chain, nn.Linear(h.numel(), 2)).double(), torch.randn(3, 2, 2, 3, dtype=torch.float64)


def verify_flows(net: Moved, x: Tensor) -> None:
    """An entry of the convolution reaches those entries before the linear layer that change when it does."""
    analysis = Analysis(trace(net, x), {})
    reached = {node: torch.eye(C, dtype=torch.bool) for node in analysis.steps if str(node.target) == "first"}
    for node, step in analysis.steps.items():
        if step.out is not None and step.flows:
            reached[node] = torch.zeros(len(step.out), C, dtype=torch.bool)
            for flow in step.flows:
                reached[node].index_put_((flow.dst,), reached[flow.node][flow.src], accumulate=True)
    node = next(node for node in analysis.steps if str(node.target) == "out").all_input_nodes[0]
    features = analysis.known[node]
    assert features is not None
    tied = any(step.ties for step in analysis.steps.values())  # what goes together is followed as one
    h = torch.randn(2, C, 2, 3, dtype=torch.float64)
    for entry in range(C):
        other = h.clone()
        other[:, entry] += 1.0
        changed = (net.function(h) != net.function(other)).any(0)
        found = reached[node][:, entry][features.entries(len(changed), "out")]
        assert not bool((changed & ~found).any())
        assert tied or torch.equal(changed, found)


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 600), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_random_chains_are_exact_or_refused(seeds: range) -> None:
    exact = 0
    for seed in seeds:
        net, x = random_chain(seed)
        try:
            check_gates(net, example_input=x)
        except GateError:
            continue
        exact += 1
        verify_flows(net, x)
        some_off(net, seed)
        try:
            verify(net, x, x)
        except GateError as error:  # all that is read is off
            assert "left without any input" in str(error)
    assert exact > len(seeds) // 4
