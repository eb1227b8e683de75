"""Normal weights: variances handed out, draws, copies, and what is left of them after a removal."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError, GateError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate, Residual, gates_of, give_normal_slabs
from bayesprune.pruning import kept_gates, shrink
from tests.infer.nets import weight_penalty
from tests.infer.slabs import (
    backward,
    bayesian,
    dense,
    divergence_at,
    inputs,
)

# variances handed out -------------------------------------------------------------------------------------------------


def noisy_gradients(net: BayesianNet, x: Tensor, seed: int) -> dict[str, Tensor | None]:
    torch.manual_seed(seed)
    backward(net, x, torch.ones(1, net.num_gates).to(x))
    net.add_gradients()
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.weights().items()}


def test_variances_handed_out_change_no_gradient() -> None:
    """Steps in which log σ is learned have all gradients, others all but those of log σ; both follow its steps."""
    net, x = bayesian("branches"), inputs("branches")
    for seed, learn in enumerate([True, False, False, True, True, False]):
        net.weights_posterior.drop_variances()
        expected = noisy_gradients(net, x, seed)
        net.weights_posterior.cache_variances(learn)
        found = noisy_gradients(net, x, seed)
        for name, gradient in found.items():
            if "log_scale" in name and not learn:
                assert gradient is None
            else:
                torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-14, msg=name)
        if learn:
            with torch.no_grad():
                for log_scale in net.weights_posterior.log_scales():
                    log_scale.sub_(log_scale.grad)


@pytest.mark.parametrize("fast", [False, True])
def test_large_layers_get_variances_in_bfloat16_where_products_in_it_are_fast(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of small linear layers; the derivative of log σ is that of float32 but for rounding."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    torch.manual_seed(0)
    net = nn.Sequential(
        layers.Conv2d(1, 4, 3, gate="unit"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 128), nn.Tanh(), nn.Linear(128, 2)
    )
    bnn = BayesianNet(net, "gaussian", num_data=100, slab="normal")
    x = torch.randn(16, 1, 8, 8)
    expected = noisy_gradients(bnn, x, 0)
    bnn.weights_posterior.cache_variances(learn=True)
    short = torch.bfloat16 if fast else torch.float32
    assert [layer.handed[0].dtype for layer in bnn.weights_posterior.layers.values()] == [short, short, torch.float32]
    found = noisy_gradients(bnn, x, 0)
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        error = (found[name] - gradient).norm() / gradient.norm()
        assert float(error) < (2**-6 if fast else 1e-5), name


def test_variances_are_computed_once_between_two_steps_of_their_own() -> None:
    net, x = bayesian("branches"), inputs("branches")
    layer = net.weights_posterior.layers["0"]
    net.weights_posterior.cache_variances(learn=True)
    net.weights_posterior.cache_variances(learn=False)
    first = layer.handed
    net.weights_posterior.cache_variances(learn=False)
    assert layer.handed is first and first is not None
    before = first[0].clone()
    net.weights_posterior.cache_variances(learn=True)
    assert layer.handed[0].requires_grad and torch.equal(layer.handed[0], before)
    backward(net, x, torch.ones(1, net.num_gates).to(x))
    with torch.no_grad():
        layer.weight_log_scale.add_(1)
    net.weights_posterior.cache_variances(learn=False)
    torch.testing.assert_close(layer.handed[0], before * torch.tensor(2.0).double().exp())
    net.weights_posterior.drop_variances()
    assert all(layer.handed is None for layer in net.weights_posterior.layers.values())


# draws ----------------------------------------------------------------------------------------------------------------


def test_weights_are_handed_in_as_one_vector_in_the_order_of_the_means() -> None:
    net, x = bayesian("depthwise"), inputs("depthwise")
    xi = torch.ones(1, net.num_gates).double()
    weights = torch.randn(len(net.weights_posterior.moments()[0])).double()
    with net.weights_posterior.drawn(weights):
        found = net(x, xi)
    with torch.no_grad():
        start = 0
        for mean in net.weights_posterior.means():
            mean.copy_(weights[start : start + mean.numel()].view_as(mean))
            start += mean.numel()
    with net.draw.use(xi):
        torch.testing.assert_close(found, net.net(x))
    assert start == len(weights)


def test_drawn_weights_are_forgotten_after_an_error() -> None:
    net = bayesian("dense")
    with pytest.raises(GateError), net.drawn_weights():
        assert all(layer.drawn is not None for layer in net.weights_posterior.layers.values())
        net(torch.randn(2, 7).double())
    assert all(layer.drawn is None for layer in net.weights_posterior.layers.values())


# surgery --------------------------------------------------------------------------------------------------------------

SILENT = [
    "mlp_with_input_gates",
    "lenet",
    "normalised",
    "residual",
    "sequence",
    "dense",
    "nested",
    "stream",
    "branches",
]
"""Networks whose structures leave 0 when they are off."""


@pytest.mark.parametrize("slab_scale", [0.7, None])
@pytest.mark.parametrize("name", SILENT)
def test_what_is_off_for_good_changes_no_divergence_and_no_price_when_it_goes(
    name: str, slab_scale: float | None
) -> None:
    net = bayesian(name, slab_scale)
    torch.manual_seed(2)
    off = {}
    for gate_name, gate in gates_of(net.net).items():
        off[gate_name] = torch.rand(gate.size) < 0.4
        off[gate_name][0] = gate.size == 1 and gate_name.endswith("2")
        with torch.no_grad():
            gate.theta[off[gate_name]] = 0.0
    net.refresh()
    divergence = float(divergence_at(net, net.theta.detach()).detach())
    costs = {n: part.clone() for n, part in net.by_gate(net.weights_cost).items()}
    smaller, index = shrink(net.net, off)
    kept = kept_gates(net.net, index)
    size = sum(net.weights_posterior._sizes)
    net.replace(smaller, kept)
    assert sum(net.weights_posterior._sizes) < size
    assert float(divergence_at(net, net.theta.detach()).detach()) == pytest.approx(divergence, rel=1e-9)
    for gate_name, part in net.by_gate(net.weights_cost).items():
        on = net.gate_probs()[gate_name] > 0
        torch.testing.assert_close(part[on], costs[gate_name][kept[gate_name]][on], rtol=1e-8, atol=1e-8)


# the network that holds them ------------------------------------------------------------------------------------------


def sent(net: BayesianNet) -> BayesianNet:
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("copied", [copy.deepcopy, sent])
@pytest.mark.parametrize("name", ["dense", "nested", "features"])
def test_a_copy_goes_on_alone(copied: Callable[[BayesianNet], BayesianNet], name: str) -> None:
    net, x = bayesian(name, None), inputs(name)
    other = copied(net)
    assert all(other.weights_posterior.layers[n] is other.net.get_submodule(n) for n in net.weights_posterior.layers)
    assert all(layer.draw is other.draw for layer in other.weights_posterior.layers.values())
    assert torch.equal(other.price, net.price)
    torch.manual_seed(0)
    expected = net.predict(x, 5).samples
    torch.manual_seed(0)
    assert torch.equal(other.predict(x, 5).samples, expected)
    mine, theirs = noisy_gradients(net, x, 1), noisy_gradients(other, x, 1)
    assert all(torch.equal(value, theirs[n]) for n, value in mine.items() if value is not None)
    price = net.price.clone()
    with torch.no_grad():
        other.theta.fill_(0.5)
        for mean in other.weights_posterior.means():
            mean.mul_(3)
    other.refresh()
    net.refresh()
    assert torch.equal(net.price, price) and not torch.equal(other.price, price)


def test_a_state_dict_holds_all_of_the_posterior() -> None:
    net, other, x = bayesian("branches", 0.7), bayesian("branches", 0.7), inputs("branches")
    with torch.no_grad():
        for p in other.weights().values():
            p.normal_()
    other.load_state_dict(net.state_dict())
    other.refresh()
    assert torch.equal(other.price, net.price)
    torch.manual_seed(0)
    expected = net.predict(x, 5).samples
    torch.manual_seed(0)
    assert torch.equal(other.predict(x, 5).samples, expected)


def test_what_is_kept_beside_the_weights_moves_with_them() -> None:
    """To a device that computes nothing: prices, and what Pyro's sites are made of, before the next refresh."""
    net = bayesian("branches").to("meta")
    assert net.price.device.type == "meta"
    assert {
        tensor.device.type for tensor in (*net.weights_posterior.moments(), net.weights_posterior.prior_scale_vector())
    } == {"meta"}


def test_refused() -> None:
    needs = "weights='normal' needs a linear or convolution layer with weights of its own"
    with pytest.raises(ConfigError, match=needs):
        BayesianNet(nn.Sequential(Residual(nn.PReLU(3))), num_data=5, slab="normal")
    net = nn.Sequential(Gate(3), nn.Linear(3, 2))
    give_normal_slabs(net, 0.5)
    with pytest.raises(ConfigError, match="weights are Normal already; pass weights='normal'"):
        BayesianNet(net, num_data=5)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"slab_scale must be positive and finite, got .*; None learns it"):
            BayesianNet(dense(), num_data=5, slab="normal", slab_scale=value)
    with pytest.raises(ConfigError, match="slab is another name of weights, and they differ: 'point' and 'normal'"):
        BayesianNet(nn.Sequential(Gate(3)), num_data=5, weights="point", slab="normal")
    with pytest.raises(ConfigError, match="unknown weights 'cauchy'; known are point, normal"):
        BayesianNet(dense(), num_data=5, slab="cauchy")


def test_when_the_last_layer_with_normal_weights_goes_the_rest_goes_on() -> None:
    net = BayesianNet(nn.Sequential(nn.PReLU(3), Residual(nn.Linear(3, 3))), "gaussian", num_data=5, slab="normal")
    smaller, index = shrink(net.net, {"1": torch.tensor([True])})
    net.replace(smaller, kept_gates(net.net, index))
    net.refresh()
    net.add_gradients()
    x = torch.randn(4, 3)
    assert net.weights_posterior.name == "point" and net.price.shape == (0,)
    assert torch.equal(net.predict(x, 2).samples, smaller(x).detach().expand(2, 4, 3))
    assert float(weight_penalty(net).detach()) == pytest.approx(float(3 * 0.25**2) / 10)


def test_effective_parameters_count_what_the_data_determine() -> None:
    """Weights whose variance is the prior's count nothing, sure ones count with the probability that they are there."""
    net = torch.nn.Sequential(layers.Gate(3, theta=0.5), torch.nn.Linear(3, 2, bias=False))
    bnn = BayesianNet(net, "gaussian", num_data=40, slab="normal", slab_scale=2.0)
    with torch.no_grad():
        net[1].weight_log_scale.fill_(math.log(2.0))
        net[1].weight_log_scale[0, 0] = math.log(2.0 * 0.5)
        net[1].weight_log_scale[1, 2] = -20.0
    bnn.refresh()
    assert bnn.effective_parameters() == pytest.approx(0.5 * (0.75 + 1.0), rel=1e-5)
