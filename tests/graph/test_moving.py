"""Operations that only move entries: what may go behind them, what goes together, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import GateError
from bayesprune.graph import check_gates
from bayesprune.pruning import ExpectedCost, compact, cost, shrink
from tests.graph.moved import FREE, SIZE, TIED, C, Moved, conv, gated_linear_unit, group_off, shuffled
from tests.graph.test_axes import some_off, verify


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


@pytest.mark.parametrize("name", ["movedim", "windows", "tile", "stack along channels", "view(b, c * 36)"])
def test_one_channel_is_followed_too(name: str) -> None:
    """What is left of a network that was cut down to one channel can be gated and trained again."""
    function, out, _, behind = FREE[name]
    net, x = Moved(function, out()).double().eval(), torch.randn(3, 2, SIZE, SIZE).double()
    group_off(net, *range(1, C))
    smaller, _ = shrink(net, {"first": net.first.gate.theta == 0}, example_input=x)
    check_gates(smaller, example_input=x)
    again, _ = shrink(smaller, {"first": torch.zeros(1, dtype=torch.bool)}, example_input=x)
    assert again.first.out_channels == 1 and again.out.weight.numel() == behind
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x), rtol=0, atol=1e-10)


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
    "squeeze of whatever is 1": (lambda h: h.mean((2, 3), keepdim=True).squeeze(), 8, r"reaches squeeze\(\), which"),
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
