"""What a converted network does while it trains: what its model does, as far as that is told call by call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

import bayesprune as bp
from bayesprune.errors import TraceError
from bayesprune.layers import Whole, gates_of
from tests.conversion.between import all_on, net_of, rows
from tests.conversion.small import distance, switch_off


def frozen(net: Any, h: Tensor) -> Tensor:
    norm = net.norm
    h = F.batch_norm(net.second(h), norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False)
    return torch.relu(h)


def no_dropout(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.dropout(net.second(h), 0.5, training=False))


def dropout_always(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.dropout(net.second(h), 0.5, training=True))


def dropout_in_training(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.dropout(net.second(h), 0.5, net.training))


def dropout_of_another(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.dropout(net.second(h), 0.5, net.norm.training))


class Kept(nn.Sequential):
    """Layers whose normalisation and dropout stay in eval mode."""

    def train(self, mode: bool = True) -> nn.Sequential:
        super().train(mode)
        for module in self[1:3]:
            module.eval()
            module.requires_grad_(False)
        return self


def kept() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return Kept(nn.Linear(4, 6), norm, nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 2)).double().eval()


@pytest.mark.parametrize("between", [frozen, no_dropout, dropout_always, dropout_in_training, dropout_of_another, None])
def test_modes_that_calls_are_told_are_kept(between: Callable[[Any, Tensor], Tensor] | None) -> None:
    model = kept() if between is None else net_of(between)
    trained = [p.requires_grad for p in model.parameters()]
    net, x = all_on(bp.convert(model, example_input=rows(3))), rows(5)
    assert [p.requires_grad for p in model.parameters()] == trained
    assert 6 in [gate.size for gate in gates_of(net).values()] or between is dropout_always
    for mode in (True, False):
        outputs = []
        for each in (copy.deepcopy(model).train(mode), copy.deepcopy(net).train(mode)):
            torch.manual_seed(1)
            outputs += [each(x), each(x)]
        assert distance(outputs[2], outputs[0]) < 1e-12 and distance(outputs[3], outputs[1]) < 1e-12
    switch_off(net)
    if between is not dropout_always:  # which draws in eval mode as well
        assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12


def test_a_function_that_goes_by_the_mode_and_is_not_known_stays_in_its_module() -> None:
    class Alpha(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.alpha_dropout(x, 0.5, self.training)

    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), Alpha(), nn.Linear(6, 2)).double()
    net = bp.convert(model, example_input=rows(3))
    assert isinstance(net.get_submodule("3"), Whole) and not torch.equal(net(rows(3)), net(rows(3)))
    assert "alpha_dropout goes by the mode of the network" in net.get_submodule("3").reason


class Averaging(nn.BatchNorm1d):
    """A normalisation by the mean of all batches, written as libraries do."""

    def forward(self, x: Tensor) -> Tensor:
        factor = 0.0
        if self.training:
            self.num_batches_tracked.add_(1)
            factor = 1.0 / float(self.num_batches_tracked)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, factor, self.eps)


def test_a_mean_of_all_batches_stays_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Averaging(6, momentum=None), nn.ReLU(), nn.Linear(6, 2)).double()
    model(rows(6))
    net = all_on(bp.convert(model.eval(), example_input=rows(3)))
    for each in (model.train(), net.train()):
        each(rows(5))
    assert distance(net.eval()(rows(3)), model.eval()(rows(3))) < 1e-12
    assert net.get_buffer("1.num_batches_tracked") == 2


def apart(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.linear(h, net.second.weight.detach(), net.second.bias.detach()))


def without_gradient(net: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.relu(net.second(h))


@pytest.mark.parametrize("between, trained", [(apart, {"first", "last"}), (without_gradient, {"last"})])
def test_what_has_no_gradient_has_none(between: Callable[[Any, Tensor], Tensor], trained: set[str]) -> None:
    model = net_of(between)
    with torch.no_grad():  # of the user's, which is not the model's
        net = all_on(bp.convert(model, example_input=rows(3)))
    assert "second_gate" in gates_of(net)
    for each in (model, net):
        each(rows(5)).sum().backward()
        found = {name.partition(".")[0] for name, p in each.named_parameters() if p.grad is not None}
        assert found & {"first", "second", "last"} == trained
    if between is without_gradient:
        with pytest.raises(TraceError, match="computes without gradient, which is kept if there is an example_input"):
            bp.convert(model)


def masked(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.linear(h, net.second.weight * net.kept[:, None].round(), net.second.bias * net.kept))


def below(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.linear(h, net.second.weight.tril(), net.second.bias))


def positive(net: Any, h: Tensor) -> Tensor:
    return torch.relu(F.linear(h, F.softplus(net.second.weight), net.second.bias))


@pytest.mark.parametrize("between", [masked, below, positive])
def test_weights_that_are_held_to_something_go_on_being_so(
    between: Callable[[Any, Tensor], Tensor],
) -> None:
    model, layers = net_of(between), nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    model = nn.Sequential(model, layers).eval()
    net = all_on(bp.convert(model, example_input=rows(3)))
    assert set(gates_of(net)) == {"0.last_gate", "1.0_gate"} or set(gates_of(net)) == {"1.0_gate"}
    before = parameters_to_vector(model.parameters()).clone()
    for each in (model, net):
        each(rows(5)).square().sum().backward()
        with torch.no_grad():
            for p in each.parameters():
                p -= 0.1 * (0 if p.grad is None else p.grad)
    assert not torch.equal(parameters_to_vector(model.parameters()), before)
    assert distance(net(rows(3)), model(rows(3))) < 1e-12


def test_a_bias_that_is_computed_is_added_behind_the_layer() -> None:
    def partly(net: Any, h: Tensor) -> Tensor:
        bias = torch.cat([net.head, net.rest])  # as attention has one that is trained for queries and values alone
        return torch.relu(F.linear(h, net.second.weight, bias))

    model = net_of(partly)
    net, x = all_on(bp.convert(model, example_input=rows(3))), rows(5)
    assert gates_of(net)["second_gate"].size == 6
    for each in (model, net):
        each(x).sum().backward()
    torch.testing.assert_close(net.get_parameter("head").grad, model.head.grad)
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12


class Adapted(nn.Linear):
    """A layer with a small one beside it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.down), self.up)


def test_a_layer_with_parameters_besides_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    net, x = bp.convert(model, example_input=rows(3)), rows(5)
    assert distance(all_on(net)(x), model(x)) < 1e-12
    switch_off(net)
    assert distance(bp.compact(net, example_input=x)(x), net(x)) < 1e-12
