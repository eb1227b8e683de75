"""Branches left out, passes resumed: the same loss and gradients as Pyro's traces, which compute everything."""

from __future__ import annotations

import pytest
import torch

from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, GateELBO, GateSampler, get_estimator
from bayesprune.networks import build
from tests.infer.nets import weight_penalty


def network(name: str) -> BayesianNet:
    torch.manual_seed(3)
    net = BayesianNet(build(name, (3, 8, 8), 4), num_data=40, prior=FlatteningPrior(torch.tensor(3.0))).double()
    with torch.no_grad():
        net.theta.copy_(torch.linspace(0.1, 0.9, net.num_gates))
    return net.train()


def gradients(net: BayesianNet) -> dict[str, torch.Tensor]:
    """Of all weights, 0 for those of branches that were left out, and of θ."""
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.weights().items()}
    found["theta"] = net.theta.grad.clone()
    net.zero_grad()
    net.theta.grad = None
    return found


@pytest.mark.parametrize("estimator", ["auto", "paired"])
def test_a_resnet_step_equals_that_of_pyro(estimator: str) -> None:
    net = network("resnet20")
    x, y = torch.randn(6, 3, 8, 8).double(), torch.arange(6) % 4
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        slow = GateELBO(estimator).loss_and_grads(net.model, net.guide, x, y)
        expected = gradients(net)
        torch.manual_seed(seed)
        xi = net.sample_gates(x)
        on = net.branches_on(xi)
        loss = get_estimator(estimator)(BatchObjective(net, x, y, on=on), net.theta, xi, net.price)
        loss.backward()
        actual = gradients(net)
        weights = weight_penalty(net)
        weights.backward()
        slab = gradients_of_weights(net)
        constant = -net.prior().log_normalizer.sum() / net.num_data
        torch.testing.assert_close(float(loss.detach() + weights.detach() + constant), slow, rtol=1e-10, atol=0)
        for name, gradient in actual.items():
            torch.testing.assert_close(gradient + slab.get(name, 0), expected[name], rtol=1e-8, atol=1e-10)
        seen.add(tuple(on))
    assert any(not all(on) for on in seen)


def gradients_of_weights(net: BayesianNet) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in net.weights().items()}
    net.zero_grad()
    return found


def test_gates_known_to_the_host_change_nothing() -> None:
    net = network("resnet14")
    x, y = torch.randn(5, 3, 8, 8).double(), torch.arange(5) % 4
    xi, on = GateSampler(net, 0)(len(x))
    known = BatchObjective(net, x, y, on=on)(xi, skip=True)
    assert torch.equal(known, BatchObjective(net, x, y)(xi, skip=True))
    torch.testing.assert_close(known, BatchObjective(net, x, y)(xi), rtol=1e-12, atol=1e-12)
