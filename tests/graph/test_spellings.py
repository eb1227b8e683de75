"""Rare spellings of calls: what NumPy calls an argument, tensors that forward makes, dimensions that come and go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import GateError, TraceError
from bayesprune.graph import check_gates
from bayesprune.layers import Gate
from tests.graph.moved import Moved, conv, group_off
from tests.graph.test_axes import verify


@pytest.mark.parametrize("example", [False, True], ids=["without an example", "with one"])
@pytest.mark.parametrize(
    ("function", "out"),
    [
        (lambda h: h.mean(3, keepdims=True).transpose(2, 3).flatten(2), lambda: nn.Conv1d(8, 2, 1)),
        (lambda h: h.sum(axis=3, keepdims=True).mean(axis=2, keepdim=True), conv),
        (lambda h: torch.sum(h, axis=(2, 3)), lambda: nn.Linear(8, 2)),
        (lambda h: torch.cat([h, h.tanh()], axis=1), lambda: conv(16)),
    ],
)
def test_names_of_numpy(function: Callable[[Tensor], Tensor], out: Callable[[], nn.Module], example: bool) -> None:
    torch.manual_seed(0)
    net, x = Moved(function, out()).double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    group_off(net, 1, 6)
    left = verify(net, x, x if example else None)
    assert left.get_submodule("first").weight.shape[0] == 6


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda h: torch.swapaxes(h, axis0=1, axis1=-1), "reaches swapaxes"),
        (lambda h: h.mean((2, 3)).unsqueeze(axis=2).squeeze(axis=2), "reaches squeeze; pass example_input"),
    ],
)
def test_names_of_numpy_that_need_an_example(function: Callable[[Tensor], Tensor], message: str) -> None:
    torch.manual_seed(0)
    net = Moved(function, nn.Linear(8, 2)).double()
    group_off(net, 2)
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    assert verify(net, x, x).get_submodule("first").weight.shape[0] == 7
    with pytest.raises(GateError, match=message):
        check_gates(net)


@pytest.mark.parametrize("example", [False, True])
def test_a_tensor_that_forward_makes_is_not_cut(example: bool) -> None:
    """Every pass makes it anew, as long as it was: the network that `shrink` leaves would not run."""
    net = Moved(lambda h: h * torch.arange(8.0).view(8, 1, 1), conv())
    with pytest.raises(GateError, match="along its features, from which nothing is removed"):
        check_gates(net, example_input=torch.randn(1, 2, 6, 6) if example else None)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.outer(h.mean((2, 3))[:, 0], h.mean((2, 3))[0]),  # a tensor of one dimension
        lambda h: h.mean((2, 3)) + h.mean((2, 3)).detach().sum(0).sum(0, keepdim=True).expand(h.shape[0], 1),
    ],
)
def test_tensors_of_one_dimension_are_refused_in_words(function: Callable[[Tensor], Tensor]) -> None:
    net = Moved(function, nn.Linear(8, 2))
    with pytest.raises(GateError, match="what it gates"):
        check_gates(net, example_input=torch.randn(1, 2, 6, 6))


def test_one_dimension_for_examples_and_features_is_followed_to_two() -> None:
    """As sizes are those of the tensor itself, there are fewer of both."""
    torch.manual_seed(0)

    def flat_and_back(h: Tensor) -> Tensor:
        return h.mean((2, 3)).reshape(-1)[: h.shape[0] * h.shape[1]].view(h.shape[0], -1)

    net, x = Moved(flat_and_back, nn.Linear(8, 2)).double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    group_off(net, 1, 6)
    assert verify(net, x, x).get_submodule("first").weight.shape[0] == 6


def test_other_tensors_of_which_nothing_is_known_are_viewed_too() -> None:
    """A call that is given a size of what a gate reaches, on what none does, gives a tensor with no entry to follow."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other, self.out = Moved(torch.tanh, nn.Identity()), nn.Conv2d(2, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h, other = self.first(x), self.other(x).softmax(1)
            return self.out(h * other.mean((1, 2, 3)).view(h.shape[0], 1, 1, 1).expand(-1, -1, h.size(2), h.size(3)))

    torch.manual_seed(0)
    net, x = Two().double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    group_off(net.first, 0, 3)
    assert verify(net, x, x).get_submodule("first.first").weight.shape[0] == 6


def test_an_odd_number_of_features_is_not_halved() -> None:
    """What is taken for a matrix may be a sequence: halved along another dimension, it is no mistake."""
    net = nn.Sequential(nn.Linear(6, 3), nn.GLU(dim=1), nn.Linear(3, 2))
    net.insert(1, Gate(3, dim=-1))
    with pytest.raises(TraceError, match=r"halves its features, but what it is given has 3.*pass example_input"):
        check_gates(net)
    with torch.no_grad():
        net[1].theta[1] = 0.0
    x = torch.randn(2, 4, 6)
    assert verify(net, x, x).get_submodule("0").out_features == 2
