"""A plain torch optimiser of ``bnn.parameters()`` moves the gates, within [0, 1]."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, GateELBO, get_estimator
from tests.training.problems import EXAMPLES, bayesian, branches, examples, units


def verify_projected_sgd(net: BayesianNet, lr: float, steps: int) -> None:
    """After every step θ is clamp(θ − η ∂L/∂θ), and weights are w − η ∂L/∂w, of the exact gradients."""
    x, y = examples(60)
    exact, xi = get_estimator("exact"), torch.ones(1, net.num_gates)
    optimizer = torch.optim.SGD(net.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        exact(BatchObjective(net, x, y), net.theta, xi, net.price).backward()
        assert net.theta.grad is not None
        theta = net.theta.detach().add(net.theta.grad, alpha=-lr).clamp(0, 1)
        weights = {n: p.detach() - lr * p.grad for n, p in net.weights().items() if p.grad is not None}
        optimizer.step()
        assert torch.equal(net.theta.detach(), theta)
        assert torch.equal(torch.cat(list(net.by_gate(theta).values())), theta)
        assert all(torch.allclose(p, weights[n], rtol=1e-6, atol=0) for n, p in net.weights().items() if n in weights)


def test_sgd_is_projected_sgd() -> None:
    net = bayesian(branches(), log_gamma=300.0)
    verify_projected_sgd(net, 0.3, 12)
    assert bool(((net.theta == 0) | (net.theta == 1)).any())
    assert bool((net.theta != 0.9).all())


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "sgd, each": partial(torch.optim.SGD, foreach=False),
    "sgd, fused": partial(torch.optim.SGD, fused=True),
    "adam": torch.optim.Adam,
    "adam, fused": partial(torch.optim.Adam, fused=True),
    "adamw, foreach": partial(torch.optim.AdamW, foreach=True),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("read", ["theta", "gate_probs", "state_dict", "forward", "copy"])
def test_what_reads_theta_finds_it_within_its_bounds(make: Callable[..., torch.optim.Optimizer], read: str) -> None:
    net = bayesian(units())
    optimizer = make(net.parameters(), lr=5.0)
    net.theta.grad = torch.linspace(-1, 1, net.num_gates)
    assert net.theta.requires_grad
    for p in net.weights().values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    outside = net._theta.detach().clone()
    assert bool((outside > 1).any()) and bool((outside < 0).any())
    expected = outside.clamp(0, 1)
    if read == "theta":
        found = net.theta
    elif read == "gate_probs":
        found = torch.cat([net.gate_probs()[name] for name in net.gate_names])
    elif read == "state_dict":
        state = net.state_dict()
        found = torch.cat([state["net.0.theta"], state["net.1.gate.theta"]])
    elif read == "copy":
        found = copy.deepcopy(net).theta
    else:
        net(examples(3)[0])
        found = torch.cat([gate.theta.detach() for gate in net.gates()])
    assert torch.equal(found, expected)


def test_parameters_are_weights_and_one_vector_of_gates() -> None:
    net = bayesian(units())
    names = [name for name, _ in net.named_parameters()]
    assert names == ["net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias", "theta"]
    assert next(p for name, p in net.named_parameters() if name == "theta") is net.theta
    assert [name for name, _ in nn.Sequential(net).named_parameters()][:1] == ["0.net.0.theta"]  # torch's own walk
    assert "net.0.theta" in net.state_dict() and "theta" not in net.state_dict()
    net.theta.grad = torch.ones(14)
    net.zero_grad()
    assert net.theta.grad is None


def test_gates_move_by_the_loss_of_pyro() -> None:
    net, (x, y) = bayesian(units(), log_gamma=3.0), examples()
    optimizer = torch.optim.SGD(net.parameters(), 2.0)
    loss = GateELBO()
    for _ in range(100):
        optimizer.zero_grad()
        loss.differentiable_loss(net.model, net.guide, x, y).backward()
        optimizer.step()
    probabilities = net.gate_probs()["0"]
    assert probabilities[:3].tolist() == [1.0, 1.0, 1.0] and float(probabilities[3:].max()) < 0.9


def test_an_inference_mode_leaves_theta_trainable() -> None:
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FlatteningPrior(2.0))
    x, y = examples(20)
    net.double()
    with torch.inference_mode():
        net.predict(x.double(), 2)
    assert net.theta.requires_grad and not net.theta.is_inference()
    loss = get_estimator("straight_through")(
        BatchObjective(net, x.double(), y), net.theta, torch.ones(20, 14), net.price
    )
    loss.backward()
    assert bool((net.theta.grad != 0).any())


@pytest.mark.parametrize("change", [nn.Module.double, copy.deepcopy], ids=["double", "copy"])
def test_an_optimiser_goes_on_with_a_network_of_another_format(change: Callable[[BayesianNet], BayesianNet]) -> None:
    """As with every module: what an optimiser holds stays what is trained, when its numbers are moved or cast."""
    net, (x, y) = bayesian(branches(), log_gamma=300.0), examples(60)
    optimizer = torch.optim.SGD(net.parameters(), 0.3)
    net.theta.grad = torch.ones_like(net.theta)
    theta, changed = net.theta, change(net)
    assert torch.equal(changed.theta.float(), torch.full((net.num_gates,), 0.9))
    assert net.theta is theta and theta.grad is not None and theta.grad.dtype == theta.dtype
    assert torch.equal(theta.grad, torch.ones_like(theta))
    optimizer.zero_grad()
    exact, xi = get_estimator("exact"), torch.ones(1, net.num_gates)
    exact(BatchObjective(net, x.to(theta.dtype), y), net.theta, xi, net.price).backward()
    optimizer.step()
    assert bool((net.theta < 0.9 - 1e-3).all())
    assert torch.equal(torch.cat([gate.theta for gate in net.gates()]), net.theta)


def test_averages_over_training_are_of_weights_and_gates() -> None:
    """Torch's `AveragedModel` pairs parameters in the order of the network's own walk only with ``use_buffers``."""
    net, (x, y) = bayesian(branches(), log_gamma=300.0), examples(60)
    averaged, optimizer = AveragedModel(net, use_buffers=True), torch.optim.SGD(net.parameters(), 0.3)
    seen: list[dict[str, torch.Tensor]] = []
    for _ in range(3):
        optimizer.zero_grad()
        xi = torch.ones(1, net.num_gates)
        get_estimator("exact")(BatchObjective(net, x, y), net.theta, xi, net.price).backward()
        optimizer.step()
        averaged.update_parameters(net)
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
    found = averaged.module.state_dict()
    for name, value in found.items():
        assert torch.allclose(value, sum(each[name] for each in seen) / 3, atol=1e-6), name
    assert torch.equal(averaged.module.theta, torch.cat([gate.theta for gate in averaged.module.gates()]))
    assert not torch.equal(averaged.module.theta, net.theta)
    averaged(x).sum().backward()
