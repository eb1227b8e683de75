"""After `fit` the module that the user holds is the trained, smaller network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.infer.held import adopt
from bayesprune.layers.residual import Bypass
from bayesprune.training import Settings, fit
from tests.training.problems import Batches, bayesian, branches, examples, units

QUICK = Settings(lr=0.02, every=1)


class Own(nn.Module):
    """A class of a user's own, with a list of modules and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = layers.Gate(8)
        self.layers = nn.ModuleList([layers.Linear(8, 6, gate="unit"), nn.Linear(6, 2)])
        self.act = self.again = nn.ReLU()
        self.pair = (self.layers[0], self.layers[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.act(self.layers[0](self.inputs(x))))


MAKE: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "units": (units, 2.0),
    "branches": (branches, 60.0),
    "own": (Own, 2.0),
}


@pytest.mark.parametrize(("make", "log_gamma"), MAKE.values(), ids=MAKE)
def test_the_users_network_is_the_trained_one(make: Callable[[], nn.Module], log_gamma: float) -> None:
    torch.manual_seed(1)
    net, (x, y) = make(), examples()
    parts = dict(net.named_modules())
    bnn = bayesian(net, log_gamma)
    history = fit(bnn, Batches(x, y), epochs=10, settings=QUICK)
    assert history.removals and bnn.net is net
    net.eval()
    assert torch.equal(net(x), bnn.eval()(x))
    assert torch.allclose(net(x), bp.compact(bnn)(x), atol=1e-5)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in bnn.net.parameters())
    for name, module in net.named_modules():
        assert name not in parts or parts[name] is module or "shortcut" in name
    assert float((net(x).argmax(1) == y).float().mean()) > 0.9


def test_layers_that_a_user_holds_are_the_trained_ones() -> None:
    net = Own()
    first, pair = net.layers[0], net.pair
    fit(bayesian(net), Batches(*examples()), epochs=10, settings=QUICK)
    assert first is net.layers[0] and first.weight.shape[1] == 3 and first.weight is net.layers[0].weight
    assert net.act is net.again
    assert [layer.weight is net.layers[k].weight for k, layer in enumerate(pair)] == [True, True]
    assert [layer.weight is net.layers[k].weight for k, layer in enumerate(net.pair)] == [True, True]


class Listed(nn.Module):
    """A class that calls its layers from a plain list, one of which an object of another kind holds, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.first, self.last = layers.Gate(8), layers.Linear(8, 6, gate="unit"), nn.Linear(6, 2)
        self.order = [self.inputs, self.first, torch.relu, self.last]
        self.held = SimpleNamespace(layer=self.first, bias=self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.order:
            x = step(x)
        return x


@pytest.mark.usefixtures("free_surgery")
def test_layers_that_are_called_from_a_list_are_the_trained_ones() -> None:
    net, (x, y) = Listed(), examples()
    bnn = bayesian(net)
    history = fit(bnn, Batches(x, y), epochs=10, settings=QUICK)
    assert len({removal.step for removal in history.removals}) > 1  # it was cut more than once
    assert net.order[0] is net.inputs and net.order[1] is net.first and net.order[3] is net.last
    assert net.held.layer is net.first and net.held.bias is net.last.bias
    assert torch.equal(net.eval()(x), bnn.eval()(x))
    assert torch.allclose(net(x), bp.compact(bnn)(x), atol=1e-5)


class Torn(Batches):
    """Breaks off in the middle of an epoch."""

    def __iter__(self):
        for k, batch in enumerate(super().__iter__()):
            if self.epoch == 8 and k == 3:
                raise KeyboardInterrupt
            yield batch


def test_a_run_that_is_broken_off_leaves_the_network_as_it_is_then() -> None:
    net, (x, y) = units(), examples()
    bnn = bayesian(net)
    with pytest.raises(KeyboardInterrupt):
        fit(bnn, Torn(x, y), epochs=10, settings=QUICK)
    assert bnn.num_gates < 14 and bnn.net is net
    assert torch.equal(net.eval()(x), bnn.eval()(x))
    assert float((net(x).argmax(1) == y).float().mean()) > 0.9


def test_a_model_of_the_smaller_network_can_be_trained_on() -> None:
    net, (x, y) = units(), examples()
    fit(bayesian(net), Batches(x, y), epochs=10, settings=QUICK)
    again = bayesian(net, log_gamma=1e-3)
    rest = Settings(schedule={"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0})
    history = fit(again, Batches(x, y), epochs=2, settings=rest)
    assert history.rows[-1].gates_left == sum(len(theta) for theta in again.gate_probs().values()) < 14


def test_modules_that_are_shared_stay_shared_and_others_apart() -> None:
    shared = nn.Linear(3, 3)
    held = nn.Sequential(shared, nn.ReLU(), shared)
    smaller = copy.deepcopy(held)
    assert adopt(held, smaller) is held
    assert held[0] is held[2] is shared
    apart = copy.deepcopy(held)
    apart[2] = nn.Linear(3, 3)
    weight = apart[2].weight
    adopt(held, apart)
    assert held[0] is shared and held[2] is not shared and held[2].weight is weight


def test_a_branch_that_is_gone_is_its_bypass() -> None:
    net = branches(2)
    block = net[1]
    bnn = bayesian(net)
    smaller, index = bp.pruning.shrink(net, {"1": torch.tensor([True])})
    bnn.replace(smaller, bp.pruning.kept_gates(net, index))
    x = torch.randn(3, 4)
    assert net[1] is block and type(block) is Bypass and torch.equal(block(x), x)
    assert bnn.gate_names == ["2"]
