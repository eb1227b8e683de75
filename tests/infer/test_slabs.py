"""Normal weights: with what probability each is there, their divergence, what it costs a gate and pulls a weight."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import ConfigError, GateError
from bayesprune.infer import BatchObjective, BayesianNet
from bayesprune.infer.normal import LEAST_SCALE
from bayesprune.layers import Gate, Residual, gates_of, give_normal_slabs
from bayesprune.pruning import kept_gates, shrink
from tests.infer.nets import weight_penalty
from tests.infer.verify import all_gates, probabilities
from tests.pruning.nets import NETS as LARGER

NUM_DATA = 50


class Streams(nn.Module):
    """A branch that is computed though its gate is off, added to units that are gated too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = layers.Linear(3, 3, gate="unit"), nn.Linear(3, 3), nn.Linear(3, 2)
        self.gate = Gate(1, per_batch=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        return self.last(torch.tanh(y + self.gate(self.branch(y)).tanh()))


class Readers(nn.Module):
    """Units that two gated layers read: they are needed if either is on."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.left, self.right = layers.Linear(3, 3, gate="unit"), nn.Linear(3, 2), nn.Linear(3, 2)
        self.one, self.other = Gate(1, per_batch=True), Gate(1, per_batch=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.units(x))
        return self.one(self.left(y)) + self.other(self.right(y))


class Beside(nn.Module):
    """Two gated layers side by side, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = layers.Linear(3, 2, gate="unit"), layers.Linear(3, 3, gate="unit")
        self.last, self.idle = nn.Linear(5, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([torch.tanh(self.one(x)), torch.tanh(self.other(x))], 1))


def dense() -> nn.Module:
    return nn.Sequential(Gate(3), layers.Linear(3, 4, gate="unit"), nn.Tanh(), nn.Linear(4, 2))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), Gate(3), nn.Linear(3, 3), nn.Tanh(), Gate(3), nn.Linear(3, 2))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), Gate(3), nn.Linear(3, 2, bias=False))


def features() -> nn.Module:
    """A filter is needed if any of the features is that it becomes."""
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), Gate(8), nn.Linear(8, 2))


def filters_and_features() -> nn.Module:
    return nn.Sequential(layers.Conv1d(1, 2, 2, gate="unit"), nn.Tanh(), nn.Flatten(), Gate(4), nn.Linear(4, 2))


def depthwise() -> nn.Module:
    deep = layers.Conv1d(3, 3, 2, groups=3, bias=False, gate="unit")
    return nn.Sequential(layers.Conv1d(1, 3, 2, gate="unit"), nn.Tanh(), deep, nn.Tanh(), nn.Flatten(), nn.Linear(3, 2))


def branches() -> nn.Module:
    first = nn.Sequential(layers.Linear(3, 2, gate="unit"), nn.Tanh(), nn.Linear(2, 3))
    return nn.Sequential(nn.Linear(2, 3), Residual(first), nn.Tanh(), Residual(nn.Linear(3, 3)), nn.Linear(3, 2))


def nested() -> nn.Module:
    inner = Residual(layers.Linear(3, 3, gate="unit"))
    outer = Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), inner, nn.Tanh(), nn.Linear(3, 3)))
    return nn.Sequential(nn.Linear(2, 3), outer, nn.Linear(3, 2))


def stream() -> nn.Module:
    """An input of the branch is there if its unit is; one of the last layer if that or the branch is."""
    return nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Tanh(), Residual(nn.Linear(3, 3)), nn.Linear(3, 2))


def layer_gate() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), layers.Linear(3, 3, gate="layer"), nn.Tanh(), nn.Linear(3, 2))


def one_input() -> nn.Module:
    """A gate of one number on an input of which nothing else is known."""
    return nn.Sequential(Gate(1), layers.Linear(1, 3, gate="unit"), nn.Tanh(), nn.Linear(3, 2))


def half() -> nn.Module:
    """A unit that is off leaves sigmoid(0), so the weights behind it stay."""
    return nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Sigmoid(), nn.Linear(3, 2))


def sequence() -> nn.Module:
    return nn.Sequential(Gate(3, dim=-1), layers.Linear(3, 2, gate="unit"), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense, (3,)), "two layers": (two_layers, (2,)), "normalised": (normalised, (2,)),
    "features": (features, (1, 3, 3)), "filters and features": (filters_and_features, (1, 3)),
    "depthwise": (depthwise, (1, 3)), "branches": (branches, (2,)), "nested": (nested, (2,)), "stream": (stream, (2,)),
    "streams": (Streams, (3,)), "readers": (Readers, (3,)), "beside": (Beside, (3,)), "layer": (layer_gate, (2,)),
    "one input": (one_input, (1,)), "half": (half, (2,)), "sequence": (sequence, (2, 3)),
}  # fmt: skip


def bayesian(name: str, slab_scale: float | None = 0.7) -> BayesianNet:
    """In float64 and eval mode, θ and the scales of the weights all different."""
    build = NETS[name][0] if name in NETS else LARGER[name][0]
    net = BayesianNet(
        build(), "gaussian", num_data=NUM_DATA, prior=FlatteningPrior(4.0), slab="normal", slab_scale=slab_scale
    ).double()
    assert net.weights_posterior.name == "normal"
    with torch.no_grad():
        net.theta.copy_(torch.linspace(0.2, 0.85, net.num_gates))
        for log_scale in net.weights_posterior.log_scales():
            log_scale.add_(torch.randn_like(log_scale))
    net.refresh()
    return net.eval()


def inputs(name: str, rows: int = 4) -> Tensor:
    return torch.randn(rows, *(NETS[name] if name in NETS else LARGER[name])[1]).double()


def matters(net: BayesianNet, x: Tensor, xi: Tensor) -> Tensor:
    """Whether the outputs depend on each Normal weight with these gates, shape ``(D,)``."""
    means = net.weights_posterior.means()
    with net.draw.use(xi):
        outputs = net.net(x)
    mixed = (outputs * torch.linspace(1, 9, outputs.numel()).view_as(outputs).sin()).sum()
    if not mixed.requires_grad:
        return torch.zeros(sum(p.numel() for p in means), dtype=torch.bool)
    slopes = torch.autograd.grad(mixed, means, materialize_grads=True, allow_unused=True)
    return torch.cat([slope.flatten() for slope in slopes]).abs() > 1e-14


def tables_by_mean(net: BayesianNet) -> dict[int, Tensor]:
    """Θ of every mean, by its id."""
    posterior = net.weights_posterior
    return dict(zip(map(id, posterior.means()), posterior._tables(net.by_gate(net.theta)), strict=True))


def divergence_at(net: BayesianNet, theta: Tensor) -> Tensor:
    return net.weights_posterior.divergence(net.by_gate(theta))


def presence(net: BayesianNet, theta: Tensor | None = None) -> Tensor:
    return net.weights_posterior.presence(net.by_gate(net.theta if theta is None else theta))


def used(net: BayesianNet) -> Tensor:
    """Which weights belong to layers that the forward pass calls, shape ``(D,)``."""
    return torch.cat([
        torch.full((p.numel(),), "idle" not in name) for name, p in net.net.named_parameters()
        if any(p is mean for mean in net.weights_posterior.means())
    ])  # fmt: skip


# who is there ---------------------------------------------------------------------------------------------------------


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


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.first, self.again, self.last = Gate(3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(self.gate(x)))
        return self.last(torch.tanh(self.again(torch.tanh(self.again(y)))))


def test_a_layer_that_is_called_twice_counts_in_full_and_is_drawn_once() -> None:
    net = BayesianNet(Twice(), "gaussian", num_data=9, slab="normal").double()
    first, again = net.weights_posterior.layers["first"], net.weights_posterior.layers["again"]
    tables = tables_by_mean(net)
    assert bool((tables[id(again.weight)] == 1).all())
    assert torch.equal(tables[id(first.weight)][0], net.theta)
    x = torch.randn(4, 3).double()
    with net.weights_posterior.drawn():
        weight, bias = again.drawn
        y = F.linear(x * net.theta.detach(), *first.drawn).tanh()
        y = F.linear(F.linear(y, weight, bias).tanh(), weight, bias).tanh()
        expected = F.linear(y, *net.weights_posterior.layers["last"].drawn)
        torch.testing.assert_close(net(x, net.theta.detach()), expected)


# the divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_divergence_is_the_sum_over_weights(name: str) -> None:
    """Θ times torch's own divergence, weight by weight; by the vectors that Pyro's site is made of, too."""
    net = bayesian(name, 0.7)
    theta = presence(net).detach()
    means, log_scales = net.weights_posterior.means(), net.weights_posterior.log_scales()
    mean, log_scale = (torch.cat([p.detach().flatten() for p in ps]) for ps in (means, log_scales))
    each = kl_divergence(Normal(mean, log_scale.exp()), Normal(torch.zeros_like(mean), torch.full_like(mean, 0.7)))
    torch.testing.assert_close(divergence_at(net, net.theta).detach(), (theta * each).sum(), rtol=1e-12, atol=0)
    posterior, prior = net.weights_posterior.moments(), net.weights_posterior.prior_scale_vector()
    assert torch.equal(posterior[0], mean) and torch.equal(posterior[1], log_scale.exp())
    torch.testing.assert_close(prior, torch.full_like(mean, 0.7), rtol=1e-15, atol=0)
    point = sum(float(p.detach().square().sum()) for p in net.point_weights().values())
    expected = float((theta * each).sum()) / NUM_DATA + point / (2 * NUM_DATA)
    assert float(weight_penalty(net).detach()) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("slab_scale", [0.7, None])
@pytest.mark.parametrize("name", NETS)
def test_what_a_structure_costs_is_the_slope_of_the_divergence(name: str, slab_scale: float | None) -> None:
    """Of all gates, by the derivative and by differences; the learned scale is at its optimum, so it does not count."""
    net = bayesian(name, slab_scale)
    theta = net.theta.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence_at(net, theta), theta)
    torch.testing.assert_close(net.weights_cost, slope, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net.price, (net.log_gamma + slope) / NUM_DATA, rtol=1e-10, atol=1e-12)
    for s in range(net.num_gates):
        ends = []
        for step in (1e-4, -1e-4):
            moved = net.theta.detach().clone()
            moved[s] += step
            with torch.no_grad():
                ends.append(float(divergence_at(net, moved).detach()))
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(float(slope[s]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("name", ["two layers", "filters and features", "nested", "stream", "readers", "half"])
def test_the_divergence_is_multilinear_so_its_slope_is_known_at_the_ends_too(name: str, end: float) -> None:
    net = bayesian(name, 0.7)
    with torch.no_grad():
        for s in range(net.num_gates):
            theta = net.theta.detach().clone()
            theta[s] = end
            other, between = theta.clone(), theta.clone()
            other[s], between[s] = 1 - end, 0.5
            a, b, c = (float(divergence_at(net, t).detach()) for t in (theta, between, other))
            assert b == pytest.approx((a + c) / 2, rel=1e-12)
    with torch.no_grad():
        net.theta.fill_(end)
    net.refresh()
    assert bool(net.weights_cost.isfinite().all())
    if end == 1.0:
        one = torch.ones(net.num_gates).double()
        for s in range(net.num_gates):
            off = one.clone()
            off[s] = 0
            with torch.no_grad():
                gap = float((divergence_at(net, one) - divergence_at(net, off)).detach())
            assert float(net.weights_cost[s]) == pytest.approx(gap, rel=1e-9, abs=1e-9)


def test_a_share_of_the_divergence_counts_for_gates_and_weights_alike() -> None:
    net = bayesian("branches")
    cost, pulls = net.weights_cost.clone(), [share.clone() for _, share in net.weights_posterior._mean_slopes]
    net.refresh(0.25)
    torch.testing.assert_close(net.weights_cost, 0.25 * cost)
    for (_, share), whole in zip(net.weights_posterior._mean_slopes, pulls, strict=True):
        torch.testing.assert_close(share, 0.25 * whole)


# the learned scale ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_the_learned_scale_is_where_the_divergence_is_least(name: str) -> None:
    net = bayesian(name, None)
    best = [scale.clone() for scale in net.weights_posterior.scales]
    net.weights_posterior.scales = [scale.clone().requires_grad_() for scale in best]
    divergence = divergence_at(net, net.theta.detach())
    slopes = torch.autograd.grad(divergence, net.weights_posterior.scales)
    assert all(abs(float(slope)) < 1e-6 for slope in slopes)
    for layer in range(len(best)):
        for factor in (0.9, 1.1):
            net.weights_posterior.scales = [scale * (factor if i == layer else 1) for i, scale in enumerate(best)]
            assert float(divergence_at(net, net.theta.detach()).detach()) > float(divergence.detach())


def test_a_layer_that_is_off_as_a_whole_keeps_the_scale_of_its_weights() -> None:
    """As the branch goes, its weights count alike and ever less: their mean square does not move, nor jump at 0."""
    scales, costs = [], []
    net = bayesian("branches", None)
    names = net.gate_names
    for theta in (1.0, 1e-3, 1e-9, 0.0):
        with torch.no_grad():
            net.theta[names.index("3")] = theta
        net.refresh()
        scales.append(float(net.weights_posterior.scales[-2]))
        costs.append(float(net.weights_cost[names.index("3")]))
    assert scales == pytest.approx([scales[0]] * 4, rel=1e-6) and scales[0] > 0.1
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-6)


def test_the_least_scale() -> None:
    net = bayesian("dense", None)
    with torch.no_grad():
        for mean, log_scale in zip(net.weights_posterior.means(), net.weights_posterior.log_scales(), strict=True):
            mean.zero_()
            log_scale.fill_(-100.0)
    net.refresh()
    assert [float(scale) for scale in net.weights_posterior.scales] == pytest.approx([LEAST_SCALE] * 2)


# pulls ----------------------------------------------------------------------------------------------------------------


def backward(net: BayesianNet, x: Tensor, xi: Tensor) -> None:
    """One pass as `fit` computes it: branches that are off are left out."""
    for p in net.trained().values():
        p.grad = None
    BatchObjective(net, x, torch.zeros(len(x), 2).to(x))(xi, skip=True).mean().backward()


@pytest.mark.parametrize("slab_scale", [0.7, None])
@pytest.mark.parametrize("name", NETS)
def test_pulls_add_up_to_the_slope_of_the_divergence(name: str, slab_scale: float | None) -> None:
    """In the mean over which branches are on, and so which weights are computed. What is not used is not pulled."""
    net, x = bayesian(name, slab_scale), inputs(name)
    parameters = [*net.weights_posterior.means(), *net.weights_posterior.log_scales()]
    slopes = torch.autograd.grad(divergence_at(net, net.theta.detach()) / NUM_DATA, parameters)
    theta = net.theta.detach()
    vectors = all_gates(net.num_branches)
    found = [torch.zeros_like(p) for p in parameters]
    for xi, weight in zip(vectors, probabilities(theta[: net.num_branches], vectors), strict=True):
        backward(net, x, torch.cat([xi, torch.ones(net.num_gates - len(xi)).double()])[None])
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        net.add_gradients()
        for total, p, grad in zip(found, parameters, before, strict=True):
            assert (p.grad is None) == (grad is None)
            if grad is not None:
                total.add_(p.grad - grad, alpha=float(weight))
    idle = {id(p) for name, p in net.net.named_parameters() if "idle" in name}
    for parameter, pulled, slope in zip(parameters, found, slopes, strict=True):
        expected = torch.zeros_like(slope) if id(parameter) in idle else slope
        torch.testing.assert_close(pulled, expected, rtol=1e-9, atol=1e-12)


def test_a_point_network_is_not_pulled() -> None:
    net = BayesianNet(branches(), "gaussian", num_data=NUM_DATA).double()
    backward(net, inputs("branches"), torch.ones(1, net.num_gates).double())
    before = {name: p.grad.clone() for name, p in net.weights().items()}
    net.add_gradients()
    assert all(torch.equal(p.grad, before[name]) for name, p in net.weights().items())
    assert net.weights_posterior.name == "point" and torch.equal(net.price, net.log_gamma / NUM_DATA)


class Forbidden(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket not in (
            torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero,
            torch.ops.aten.equal, torch.ops.aten._to_copy, torch.ops.aten.masked_select,
        ), function  # fmt: skip
        return function(*args, **(kwargs or {}))


def test_a_step_reads_no_number_back() -> None:
    """What a step with Normal weights does of its own, but for refreshing the shares, which is now and then."""
    net, x = bayesian("dense"), inputs("dense")
    net.train()
    y, xi = torch.zeros(len(x), 2).double(), torch.ones(1, net.num_gates).double()
    for learn in (True, False, False, True):
        for p in net.trained().values():
            p.grad = None
        with Forbidden():
            net.weights_posterior.cache_variances(learn)
            loss = BatchObjective(net, x, y, on=[])(xi, skip=True).mean()
            loss.backward()
            net.add_gradients()
        assert (net.weights_posterior.log_scales()[0].grad is not None) == learn
    with pytest.raises(AssertionError), Forbidden():
        float(loss)


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
