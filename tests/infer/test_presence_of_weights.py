"""With what probability each Normal weight is there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate, Residual, Whole
from tests.infer.slabs import (
    NETS,
    bayesian,
    inputs,
    matters,
    presence,
    tables_by_mean,
    used,
)
from tests.infer.verify import all_gates, probabilities
from tests.pruning.nets import NETS as LARGER


@pytest.mark.parametrize("name", NETS)
def test_presence_is_the_probability_that_outputs_depend_on_a_weight(name: str) -> None:
    """By enumeration of all gates: its row's, its column's and its branches' gates are on, and something reads it."""
    net, x = bayesian(name), inputs(name)
    vectors = all_gates(net.num_gates)
    weights = probabilities(net.theta.detach(), vectors)
    expected = sum(p * matters(net, x, xi) for p, xi in zip(weights, vectors, strict=True))
    found = presence(net).detach()
    here = used(net)
    torch.testing.assert_close(found[here], expected[here], rtol=0, atol=1e-12)
    assert bool((found[~here] == 1).all())


@pytest.mark.parametrize("name", [name for name in LARGER if name not in ("flattened", "barriers")])
def test_no_weight_counts_as_absent_that_outputs_depend_on(name: str) -> None:
    """At vertices θ = ξ, on the networks that surgery is tried on: the bound on the evidence is one."""
    net, x = bayesian(name), inputs(name, 2)
    torch.manual_seed(6)
    absent = 0
    for share in (0.5, 0.8, 1.0):
        xi = (torch.rand(net.num_gates) < share).double()
        found = presence(net, xi)
        assert set(found.unique().tolist()) <= {0.0, 1.0}
        assert not bool((matters(net, x, xi) & (found == 0)).any())
        absent += int((found == 0).sum())
    assert absent > 0


def test_a_bias_of_a_depthwise_convolution_stays_where_its_channel_is_off() -> None:
    """Its input is 0 then, its output the bias; counted in full, and so are the weights behind it."""
    deep = nn.Conv1d(3, 3, 2, groups=3)
    net = nn.Sequential(layers.Conv1d(1, 3, 2, gate="unit"), nn.Tanh(), deep, nn.Flatten(), nn.Linear(3, 2))
    bnn = BayesianNet(net, "gaussian", num_data=9, slab="normal")
    tables = tables_by_mean(bnn)
    assert bool((tables[id(deep.bias)] == 1).all()) and bool((tables[id(net[4].weight)] == 1).all())
    assert bool((tables[id(net[0].weight)] == bnn.theta.view(3, 1, 1)).all())


class Named(nn.Module):
    """A layer that is called by the name of its argument, which is that of a gate: nothing is known of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.x, self.last = nn.Linear(3, 3), Residual(nn.Linear(3, 3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.x(self.first(input=x)))


def test_a_layer_called_by_keyword() -> None:
    net = BayesianNet(Named(), "gaussian", num_data=9, slab="normal")
    weight, bias = net.weights_posterior._tables(net.by_gate(net.theta))[:2]
    assert bool((weight == 1).all()) and bool((bias == 1).all())


class Twins(nn.Module):
    """The difference of what one network makes of two inputs: 0 where these are equal, whatever the weights.

    Args:
        how: How the second is computed: by the same layers, by one that is held twice, by their weights, or inside a
            module that nothing is followed through.
    """

    def __init__(self, how: str):
        super().__init__()
        self.first, self.gate, self.again, self.how = nn.Linear(3, 3), Gate(3), nn.Linear(3, 2), how
        self.other = self.again if how == "held twice" else nn.Linear(1, 1)
        if how == "whole":
            self.whole = Whole(Differences())

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(self.gate(x)))
        if self.how == "whole":
            return self.whole(y)
        if self.how == "read":
            return self.again(y) - F.linear(y, self.again.weight, self.again.bias)
        return self.again(y) - (self.other if self.how == "held twice" else self.again)(y)


class Differences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) - self.map(x)


@pytest.mark.parametrize("how", ["called twice", "held twice", "read", "whole"])
def test_passes_with_noise_are_those_of_one_network(how: str) -> None:
    """Each call of a layer with Normal weights draws outputs of its own: one in several places keeps point weights."""
    net = BayesianNet(Twins(how), "gaussian", num_data=9, slab="normal").double()
    assert "first" in net.weights_posterior.layers
    assert ("whole.whole.map" if how == "whole" else "again") not in net.weights_posterior.layers
    x = torch.randn(50, 3).double()
    assert float(net(x, torch.ones(50, 3).double()).detach().abs().max()) < 1e-12


@pytest.mark.parametrize("how", ["called twice", "held twice", "read"])
def test_layers_in_several_places_that_are_normal_already_are_refused(how: str) -> None:
    net = Twins(how)
    layers.give_normal_slabs(net, 0.5)
    with pytest.raises(ConfigError, match="layer 'again' has Normal weights, and is called more than once or read"):
        BayesianNet(net, "gaussian", num_data=9, slab="normal")


def test_a_network_of_layers_in_several_places_alone_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.map = Gate(3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(torch.tanh(self.map(self.gate(x))))

    with pytest.raises(ConfigError, match=r"that is called once, and the network has none; take weights='point'"):
        BayesianNet(Twice(), "gaussian", num_data=9, slab="normal")
