"""Networks with noise inside, before and behind branches: slopes of θ against exact expectations over that noise."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from bayesprune.distributions import FlatteningPrior
from bayesprune.infer import BatchObjective, BayesianNet, get_estimator
from bayesprune.layers import Residual, normal_layers
from tests.infer.moments import expected_loss, expected_slopes
from tests.infer.verify import verify_mean

ROWS = 250
DRAWS = 120


def body() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))


def one_branch() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), Residual(body()), nn.Dropout(0.5), nn.Linear(2, 1))


def two_branches() -> nn.Module:
    return nn.Sequential(Residual(body()), Residual(body()), nn.Dropout(0.5), nn.Linear(2, 1))


def nested() -> nn.Module:
    """A branch within a branch, with dropout behind it in both."""
    outer = nn.Sequential(Residual(body()), nn.Dropout(0.5), nn.Linear(2, 2))
    return nn.Sequential(nn.Linear(2, 2), Residual(outer), nn.Dropout(0.5), nn.Linear(2, 1))


def linear_branches() -> nn.Module:
    """Noise of Normal weights alone, of equal shape everywhere."""
    return nn.Sequential(nn.Linear(2, 2), Residual(nn.Linear(2, 2)), Residual(nn.Linear(2, 2)), nn.Linear(2, 2))


def bayesian(build, slab: str, theta: float) -> tuple[BayesianNet, Tensor, Tensor]:
    """The network in training mode, with an input and its target."""
    torch.manual_seed(3)
    net = BayesianNet(build(), "gaussian", num_data=100, prior=FlatteningPrior(torch.tensor(1.0)), slab=slab).double()
    with torch.no_grad():
        for name, weight in net.weights().items():
            weight.fill_(-0.3) if name.endswith("log_scale") else weight.add_(0.8)
        net.theta.fill_(theta)
    return net.train(), torch.tensor([1.0, -0.5]).double(), torch.tensor([0.5] * net.net[-1].out_features).double()


CASES = [
    *((build, "point") for build in (one_branch, two_branches, nested)),
    *((build, "normal") for build in (one_branch, nested, linear_branches)),
]


@pytest.mark.statistical
@pytest.mark.parametrize(("estimator", "theta"), [("paired", 0.0), ("paired", 0.5), ("auto", 0.0), ("disarm", 0.5)])
@pytest.mark.parametrize(("build", "slab"), CASES)
def test_slopes_are_unbiased_whatever_noise_is_on_both_sides_of_a_branch(
    build, slab: str, estimator: str, theta: float
) -> None:
    """Fails by chance at 6e-5 a gate, at most two gates."""
    net, x, y = bayesian(build, slab, theta)
    rows = x.expand(ROWS, -1), y.expand(ROWS, -1)
    truth = expected_slopes(net, x, y)
    torch.manual_seed(0)
    estimates = []
    for _ in range(DRAWS):
        xi = net.sample_gates(rows[0])
        loss = get_estimator(estimator)(BatchObjective(net, *rows), net.theta, xi, net.price)
        estimates.append(torch.autograd.grad(loss, net.theta)[0])
    for s, samples in enumerate(torch.stack(estimates).T):
        if estimator != "disarm":  # one gate at a time is visited, its entry times S
            samples = samples[samples != 0] / net.num_gates
        verify_mean(samples[:, None], truth[s : s + 1], f"{estimator} at {theta}, gate {s}")


@pytest.mark.parametrize("build", [one_branch, two_branches])
def test_expected_losses_are_those_over_all_masks(build) -> None:
    net, x, y = bayesian(build, "point", 0.5)
    dropouts = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    for xi in torch.tensor(list(product((0.0, 1.0), repeat=net.num_gates))).double():
        total = torch.zeros((), dtype=torch.float64)
        masks = torch.tensor(list(product((0.0, 2.0), repeat=2 * len(dropouts)))).double()
        for mask in masks:
            parts = iter(mask.split(2))
            handles = [d.register_forward_hook(lambda m, i, o, parts=parts: i[0] * next(parts)) for d in dropouts]
            total += (net(x[None], xi) - y).square().sum() / 2 / len(masks)
            for handle in handles:
                handle.remove()
        torch.testing.assert_close(expected_loss(net, x, y, xi), total.detach())


@pytest.mark.parametrize("slab", ["point", "normal"])
@pytest.mark.parametrize("how", ["flipped", "again"])
def test_what_follows_a_branch_that_joins_sees_the_numbers_of_the_first_pass(how: str, slab: str) -> None:
    """Every branch adds 0, so that it makes no difference which of them join."""
    net, x, y = bayesian(nested, slab, 0.5)
    with torch.no_grad():
        for block in (net.net[1], net.net[1].body[0]):
            for name, parameter in block.body[-1 if block is net.net[1] else 0].named_parameters():
                parameter.fill_(-60.0 if name.endswith("log_scale") else 0.0)
    for layer in normal_layers(net).values():
        layer.deviation = lambda variance: variance.sqrt()  # without what is added for the derivative at 0
    for first in ([0.0, 0.0], [1.0, 0.0]):
        objective = BatchObjective(net, x.expand(5, -1), y.expand(5, -1))
        s = first.index(0.0)
        losses = objective(torch.tensor([first]).double(), skip=True, watch=[s])
        joined = torch.tensor([[float(i == s) or value for i, value in enumerate(first)]]).double()
        other = objective.flipped(s) if how == "flipped" else objective.again(joined)
        torch.testing.assert_close(other, losses.detach(), rtol=0, atol=1e-12)


def test_a_branch_that_joins_draws_numbers_that_come_next_and_no_other_pass_sees() -> None:
    net, x, y = bayesian(one_branch, "point", 0.5)
    masks: list[Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(lambda m, inputs: torch.ones_like(inputs[0]))
            module.register_forward_hook(lambda m, inputs, output: masks.append((output == 0).flatten()))
    x, y, off = x.expand(50, -1), y.expand(50, -1), torch.zeros(1, 1).double()
    for _ in range(2):
        objective = BatchObjective(net, x, y)
        objective(off, skip=True, watch=[0])
        after_first = torch.get_rng_state()
        objective.flipped(0)
        after_second = torch.get_rng_state()
    first, behind, own, again = masks[:4]
    assert torch.equal(behind, again)
    for a, b in [(own, behind), (own, first), *((own, mask) for mask in masks[4:])]:
        assert 20 < int((a != b).sum()) < 80  # of 100; independent: 50 ± 5
    torch.set_rng_state(after_first)
    net.net[1].body[1](torch.ones(50, 2).double())
    assert torch.equal(masks[-1], masks[-3]) and torch.equal(torch.get_rng_state(), after_second)
