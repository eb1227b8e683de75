"""Forward passes that go by sizes, followed for examples of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.errors import TraceError
from bayesprune.layers import Whole, gates_of
from tests.conversion.small import distance, switch_off


class Written(nn.Module):
    """A network whose forward pass is a function of its layers and an image."""

    def __init__(self, forward: Callable[[Written, Tensor], Tensor]):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 6, 1), nn.ReLU()
        self.fc = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        self.register_buffer("scale", torch.rand(6) + 0.5)
        self.written = forward

    def forward(self, x: Tensor, twice: Tensor | None = None) -> Tensor:
        x = self.act(self.conv(x))
        if twice is not None:
            x = x * twice
        return self.fc(self.written(self, x).mean((2, 3)))


def padded(net: Written, x: Tensor) -> Tensor:
    _, _, *sides = x.shape
    assert len(sides) == x.dim() - 2 and x.shape[2] == x.shape[3], f"expected squares, got {sides}"
    if sides[0] % 4:
        x = nn.functional.pad(x, (0, 4 - sides[0] % 4, 0, 4 - sides[1] % 4))
    return x if x.shape[-1] % 4 == 0 else x * math.nan


def looped(net: Written, x: Tensor) -> Tensor:
    parts = list(x.unbind(3))
    return torch.stack([parts[i] * (i + 1) for i in range(x.shape[3])], 3)


def placed(net: Written, x: Tensor) -> Tensor:
    places = torch.arange(x.shape[3], device=x.device, dtype=x.dtype)
    return x.to(x.device) * places * int(math.sqrt(x.shape[2]))


def scaled(net: Written, x: Tensor) -> Tensor:
    torch._assert(x.size(1) == len(net.scale), "as many channels")
    return x * net.scale.view(1, -1, 1, 1)


def joined(net: Written, x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :0].neg(), x[:, :, :2], x[:, :, 2:] * 2], 2).type_as(x)


@pytest.mark.parametrize("forward", [padded, looped, placed, scaled, joined])
def test_what_goes_by_sizes_is_followed(forward: Callable[[Written, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Written(forward).double().eval(), torch.randn(2, 3, 5, 5).double()
    net = bp.convert(model, example_input=x[:1])
    assert set(gates_of(net)) == {"conv_gate", "fc.0_gate"}
    assert torch.equal(net(x), model(x))  # for two examples, where it was followed for one
    switch_off(net, seed=1)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    assert small.get_submodule("conv").out_channels < 6


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: x if x.sum() > 0 else -x,
        lambda net, x: x if len(x) > 1 else -x,
        lambda net, x: x if x.shape[0] * 2 > 2 else -x,
        lambda net, x: x * int(x[0, 0, 0, 0]),
    ],
)
def test_what_follows_from_data_or_from_the_number_of_examples_is_no_size(
    forward: Callable[[Written, Tensor], Tensor],
) -> None:
    model, x = Written(forward).eval(), torch.rand(2, 3, 5, 5)
    with pytest.raises(TraceError, match=r"follows from .*test_following.py, line \d+: "):
        bp.convert(model, example_input=x)
    net = bp.convert(nn.Sequential(model, nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), example_input=x)
    assert isinstance(net.get_submodule("0"), Whole) and set(gates_of(net)) == {"1_gate"}
    assert "follows from" in net.get_submodule("0").reason


def test_what_is_made_for_as_many_examples_as_there_are_is_made_in_every_pass() -> None:
    def forward(net: Written, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[0], device=x.device) & torch.ones(1, dtype=torch.long)
        return x * places.type(x.dtype).view(-1, 1, 1, 1)

    model, x = Written(forward).double().eval(), torch.rand(5, 3, 5, 5).double()
    net = bp.convert(model, example_input=x[:1])
    assert torch.equal(net(x), model(x))
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12


def test_what_needs_no_size_to_be_followed_holds_for_inputs_of_all_sizes() -> None:
    def forward(net: Written, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        x = nn.functional.interpolate(x + torch.arange(x.shape[0]).view(-1, 1, 1, 1), size=x.shape[-2:])
        return x * torch.arange(x.shape[3])

    model, x = (
        nn.Sequential(Written(forward), nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).eval(),
        torch.rand(2, 3, 5, 5),
    )
    net = bp.convert(model, example_input=x)
    assert gates_of(net).keys() >= {"0.fc.0_gate", "1_gate"}
    for shape in ((3, 3, 5, 5), (1, 3, 7, 8)):
        x = torch.rand(shape)
        assert torch.equal(net(x), model(x))


def test_a_weight_whose_kind_is_looked_at_is_not_used_directly() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return x if net.fc[0].weight.dtype == x.dtype else x.to(net.fc[0].weight.dtype)

    model, x = Written(forward).double().eval(), torch.rand(2, 3, 5, 5).double()
    assert set(gates_of(bp.convert(model, example_input=x))) == {"conv_gate", "fc.0_gate"}


def test_arguments_that_are_not_given_are_what_they_are_by_default() -> None:
    model, x = Written(lambda net, x: x).eval(), torch.rand(2, 3, 5, 5)
    net = bp.convert(model, example_input=x)
    assert torch.equal(net(x), model(x))
    both = bp.convert(model, example_input={"x": x, "twice": x[:, :1]})
    assert torch.equal(both(x, x[:, :1]), model(x, x[:, :1]))


class Shared(nn.Module):
    """A layer that is used by itself, and in a module that cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Written(lambda net, x: x if x.sum() > 0 else -x)
        self.last = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x)) + self.inner.act(self.inner.conv(x)).mean((2, 3))[:, :2]


def test_what_a_whole_module_uses_stays() -> None:
    model, x = Shared().double().eval(), torch.rand(2, 3, 5, 5).double()
    net = bp.convert(model, example_input=x)
    assert set(gates_of(net)) == {"last.0_gate"}
    assert torch.equal(net(x), model(x))
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    assert small.get_submodule("last.0").out_features < 6


def test_a_method_that_a_module_has_chosen_for_its_forward_pass_is_followed() -> None:
    class Chosen(Written):
        def __init__(self) -> None:
            super().__init__(lambda net, x: x)
            self.forward = self.halved  # type: ignore[method-assign]

        def halved(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.conv(x)).mean((2, 3))) / 2

    model, x = nn.Sequential(Chosen(), nn.Linear(2, 2)).double().eval(), torch.randn(2, 3, 5, 5).double()
    net = bp.convert(model, example_input=x)
    with torch.no_grad():
        model[0].conv.weight.zero_()  # of which the copy is independent
    assert not torch.equal(net(x), model(x))
    assert set(gates_of(net)) == {"0.conv_gate", "0.fc.0_gate", "0.fc.2_gate"}
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12
    with pytest.raises(TraceError, match="the network has a forward method set on the object"):
        bp.convert(model[0], example_input=x)


def over(net: Written, x: Tensor) -> Tensor:
    x.mul_(2.0)
    same = x
    same.add_(x)
    net.act(x.sub_(0.25))
    other = (x * 2).reshape(x.shape)  # of which x gives but the sizes
    other.add_(1.0)
    return x.neg().relu_() + x + other


def test_what_is_written_over_is_read_as_it_is_then() -> None:
    class Over(Written):
        def __init__(self) -> None:
            super().__init__(over)
            self.act = nn.ReLU(inplace=True)

    model, x = Over().double().eval(), torch.randn(2, 3, 5, 5).double()
    net = bp.convert(model, example_input=x)
    assert torch.equal(net(x), model(x))
    assert set(gates_of(net)) >= {"fc.0_gate"}


@pytest.mark.parametrize(
    "forward", [lambda net, x: (x[:, :2].mul_(2.0), x)[1], lambda net, x: x + net.scale.add_(1.0).sum()]
)
def test_writing_over_a_part_or_a_buffer_is_refused(forward: Callable[[Written, Tensor], Tensor]) -> None:
    with pytest.raises(TraceError, match="works in place on a part of a tensor, or on a buffer, that is read again"):
        bp.convert(Written(forward).eval(), example_input=torch.rand(2, 3, 5, 5))


def test_that_a_network_with_a_whole_module_is_not_saved_is_known_beforehand() -> None:
    inner = nn.Sequential(Written(lambda net, x: x if x.sum() > 0 else -x), nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.rand(2, 3, 5, 5)
    bnn = bp.BayesianNet(bp.convert(inner, example_input=x), num_data=2, example_input=x)
    assert (why := bp.pruning.unsavable(bnn)) is not None
    assert "cannot hold 0 (Whole)" in why and "\n" not in why
