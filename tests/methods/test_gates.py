"""How θ moves: exact distances for exact gradients, projection, and state that survives surgery and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.distributions import FixedInclusion
from bayesprune.distributions.gate_prior import EDGE
from bayesprune.graph import gates_of
from bayesprune.infer import BayesianNet, GateSample, paired_differences
from bayesprune.methods.svi.corrected import MEMORY
from bayesprune.methods.svi.exact import PRICE_SHARE
from bayesprune.methods.svi.gates import GateUpdates, begin
from bayesprune.methods.svi.sampled import NOISE_SHARE
from bayesprune.networks import resmlp
from tests.training.problems import EXAMPLES, bayesian, branches, examples, units

S = 14


def updates(
    theta: float | Tensor = 0.5, log_gamma: float = 5.0, build: Callable[[], nn.Module] = units
) -> tuple[BayesianNet, GateUpdates]:
    net = bayesian(build(), log_gamma)
    with torch.no_grad():
        net.theta.copy_(torch.as_tensor(theta).expand(net.num_gates))
    return net, GateUpdates(net)


def step(net: BayesianNet, moves: GateUpdates, gradient: Tensor, size: float) -> Tensor:
    """How far θ moves on this gradient."""
    before = net.theta.detach().clone()
    net.theta.grad = gradient.clone()
    moves.sampled.step(size)
    assert net.theta.grad is None
    return net.theta.detach() - before


def gather(moves: GateUpdates, *differences: Tensor, error: float = 0.0) -> None:
    """Do what `exact.add` does with these means of two examples each, which differ from theirs by ``error``."""
    for difference in differences:
        gaps = torch.stack([difference + error, difference - error])
        moves.exact.total += moves.exact.add_gaps(gaps, torch.ones(len(difference), dtype=torch.bool), 2) / 2
        moves.exact.count += 1


@pytest.mark.parametrize("log_gamma", [0.5, 5.0, 50.0])
def test_the_price_alone_moves_theta_by_size(log_gamma: float) -> None:
    net, moves = updates(log_gamma=log_gamma)
    for _ in range(3):
        torch.testing.assert_close(step(net, moves, net.price, 0.01), torch.full((S,), -0.01))


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
def test_an_exact_gradient_moves_theta_by_size_times_gradient_over_price(factor: float) -> None:
    """Up to the share of g − ρ that counts as noise: the divisor is √(ρ² + κ²(g − ρ)²), κ² = 0.01, below 2 % here."""
    net, moves = updates()
    gradient = factor * net.price
    exact = -0.01 * factor / (1 + NOISE_SHARE**2 * (factor - 1) ** 2) ** 0.5
    for _ in range(3):
        moved = step(net, moves, gradient, 0.01)
        torch.testing.assert_close(moved, torch.full((S,), exact), rtol=1e-4, atol=1e-7)
    assert exact == pytest.approx(-0.01 * factor, rel=0.021)


def test_inference_begins_where_gates_say_unless_theta_is_another_than_the_initial_one() -> None:
    net = resmlp((5,), 2, depth=12, width=3)
    first, second = list(gates_of(net).values())[:2]
    first.begin, second.theta.data[:] = None, 0.8
    bnn = BayesianNet(net.double(), num_data=10)
    begin(bnn)
    assert bnn.theta.tolist() == pytest.approx([0.9, 0.8] + [0.75] * 10)  # 9 of 12


def test_noise_holds_steps_back() -> None:
    """Alternating gradients ρ ± 100 ρ: the divisor grows to about κ 100 ρ = 10 ρ, so no step is longer than 10 size."""
    net, moves = updates()
    for k in range(40):
        moved = step(net, moves, net.price * (1 + 100 * (-1) ** k), 0.001)
        assert bool((moved.abs() < 1.02 * 0.001 * 101 / (1 + (100 * NOISE_SHARE) ** 2) ** 0.5).all())


@pytest.mark.parametrize(("start", "sign", "end"), [(0.02, 1.0, 0.0), (0.98, -1.0, 1.0)])
def test_steps_are_projected(start: float, sign: float, end: float) -> None:
    net, moves = updates(start)
    for _ in range(4):
        step(net, moves, sign * 3 * net.price, 0.05)
    assert torch.equal(net.theta.detach(), torch.full((S,), end))
    assert torch.equal(net.gate_probs()["0"], torch.full((8,), end))
    step(net, moves, -sign * net.price, 0.05)
    assert bool((net.theta != end).all())


def test_net_cost_is_the_mean_gradient_since_the_last_call() -> None:
    net, moves = updates()
    gradients = torch.randn(3, S)
    for gradient in gradients:
        step(net, moves, gradient, 0.0)
    moves.sampled.update_net_cost()
    torch.testing.assert_close(moves.net_cost, gradients.mean(0))
    step(net, moves, gradients[1], 0.0)
    moves.sampled.update_net_cost()
    torch.testing.assert_close(moves.net_cost, gradients[1])
    moves.sampled.update_net_cost()
    torch.testing.assert_close(moves.net_cost, gradients[1])


def test_settling_moves_by_size_at_most() -> None:
    """net cost = ΔC + ρ; without error the step is size · clamp(net cost/(κρ), −1, 1)."""
    net, moves = updates()
    price = net.price
    factors = torch.linspace(-3, 3, S)
    gather(moves, (factors - 1) * price)
    moves.exact.step(0.2)
    torch.testing.assert_close(moves.net_cost, factors * price)
    torch.testing.assert_close(net.theta.detach(), 0.5 - 0.2 * (factors / PRICE_SHARE).clamp(-1, 1))


def test_settling_on_errors() -> None:
    """Four examples at ±e: the variance of their mean is (4 e²/3)/4, and counts besides that of κρ."""
    net, moves = updates(build=branches)
    error = 8 * float(net.price[0])
    gather(moves, torch.zeros(4), torch.zeros(4), error=error)
    moves.exact.step(0.2)
    torch.testing.assert_close(moves.exact.error, torch.full((4,), error / 3**0.5))
    length = (PRICE_SHARE**2 + 8**2 / 3) ** 0.5
    torch.testing.assert_close(net.theta.detach(), torch.full((4,), 0.5 - 0.2 / length))


def test_settling_smooths_evaluations() -> None:
    net, moves = updates(build=branches)
    values = [torch.randn(4) for _ in range(3)]
    weights = [MEMORY**age for age in (2, 1, 0)]
    for value in values:
        gather(moves, value)
        moves.exact.step(0.01)
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights) + net.price
    torch.testing.assert_close(moves.net_cost, expected)
    before = net.theta.detach().clone()
    moves.exact.step(0.05)  # nothing was measured since: it goes on
    assert bool(((net.theta.detach() - before) * moves.net_cost <= 0).all()) and not torch.equal(net.theta, before)


@pytest.mark.parametrize(("start", "factor", "end"), [(0.1, 5.0, 0.0), (0.9, -5.0, 1.0)])
def test_settling_is_projected(start: float, factor: float, end: float) -> None:
    net, moves = updates(start)
    gather(moves, (factor - 1) * net.price)
    moves.exact.step(0.4)
    assert torch.equal(net.theta.detach(), torch.full((S,), end))


def test_an_evaluation_gathers_exact_differences() -> None:
    """With θ at 0 and 1 there is nothing to draw, so the evaluation is the exact one."""
    net, moves = bayesian(branches()), None
    with torch.no_grad():
        net.theta.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    moves = GateUpdates(net)
    x, y = examples(50)
    xi = net.theta.detach()[None]
    gates = GateSample(xi, [True, False, True, False])
    moves.exact.add(x[:20], y[:20], gates)
    moves.exact.add(x[20:40], y[20:40], gates)
    exact = [paired_differences(net, x[a:b], y[a:b], xi)[0] for a, b in ((0, 20), (20, 40))]
    moves.exact.step(0.0)
    torch.testing.assert_close(moves.net_cost, sum(exact) / 2 + net.price)


def walk(net: BayesianNet, moves: GateUpdates, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(3):
        step(net, moves, torch.randn(net.num_gates), 0.01)
    moves.sampled.update_net_cost()
    gather(moves, torch.randn(net.num_gates) * 0.1, error=0.02)
    moves.exact.step(0.05)
    step(net, moves, torch.randn(net.num_gates), 0.01)


def flat(moves: GateUpdates) -> dict[tuple[str, str], Tensor | float]:
    return {(part, name): value for part, state in moves.state().items() for name, value in state.items()}


def test_state_round_trip_goes_on_with_the_same_numbers() -> None:
    (first, mine), (second, theirs) = updates(), updates()
    walk(first, mine, 1)
    theirs.load(mine.state())
    with torch.no_grad():
        second.theta.copy_(first.theta)
    walk(first, mine, 2)
    walk(second, theirs, 2)
    assert torch.equal(first.theta, second.theta)
    other = flat(theirs)
    for name, value in flat(mine).items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def test_keep_goes_on_with_these_gates() -> None:
    net, moves = updates()
    walk(net, moves, 3)
    before = flat(moves)
    kept = torch.tensor([0, 3, 13])
    moves.keep(kept)
    for name, value in flat(moves).items():
        assert torch.equal(value, before[name][kept]) if isinstance(value, Tensor) else value == before[name], name


def test_differences_follow_sampled_gradients_without_their_price() -> None:
    """The mean over some steps: after very many with the same gradient, what it is above the price."""
    net, moves = updates()
    assert bool(moves.differences.isnan().all())
    gradient = torch.linspace(-1, 1, net.num_gates)
    step(net, moves, gradient, 0.01)
    torch.testing.assert_close(moves.differences, gradient - net.price)
    for _ in range(3):
        step(net, moves, -gradient, 0.01)
    weights = torch.tensor([0.95**3, 0.95**2, 0.95, 1.0])
    mean = float((weights * torch.tensor([1.0, -1.0, -1.0, -1.0])).sum() / weights.sum())
    torch.testing.assert_close(moves.differences, mean * gradient - net.price)


def test_differences_of_shared_gates_are_surveyed_and_settled_ones_count_alone() -> None:
    net = bayesian(branches()).double().eval()
    moves = GateUpdates(net)
    x, y = examples(40)
    x, on = x.double(), torch.ones(1, 4, dtype=torch.float64)
    gates = GateSample(on, [True] * 4)
    exact = paired_differences(net, x, y, *gates)[0]
    step(net, moves, torch.ones(4, dtype=torch.float64), 0.01)
    assert bool(moves.differences.isnan().all())
    before = net.theta.detach().clone()
    for _ in range(3):
        moves.sampled.add_shared_differences(x, y, gates)
    torch.testing.assert_close(moves.differences.double(), exact, rtol=1e-5, atol=1e-7)
    assert torch.equal(net.theta.detach(), before)
    moves.sampled.update_net_cost()
    moves.exact.add(x[:20], y[:20], gates)
    moves.exact.step(0.1)
    half = paired_differences(net, x[:20], y[:20], *gates)[0]
    torch.testing.assert_close(moves.differences.double(), half, rtol=1e-5, atol=1e-7)


# fixed priors --------------------------------------------------------------------------------------------------------


def fixed(inclusion: float = 0.2) -> tuple[BayesianNet, GateUpdates]:
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FixedInclusion(inclusion))
    return net, GateUpdates(net)


def test_under_a_fixed_prior_evidence_is_averaged_over_ever_more_evaluations() -> None:
    """Evaluation k counts 4/(k + 3) when it is made: of three, the weights are 1/15, 4/15 and 10/15."""
    net, moves = fixed()
    values = [torch.randn(S) / EXAMPLES for _ in range(3)]
    for value in values:
        gather(moves, value)
        moves.exact.step(1.0)
    mean = (values[0] + 4 * values[1] + 10 * values[2]) / 15
    best = torch.sigmoid(-EXAMPLES * (mean + net.price))
    torch.testing.assert_close(net.theta.detach(), best)
    at_rest = mean + net.price + torch.logit(best) / EXAMPLES  # the gradient vanishes at the optimum
    torch.testing.assert_close(moves.net_cost, at_rest, atol=1e-7, rtol=1e-3)
    assert float(moves.net_cost.abs().max()) < 1e-6
    recent = (MEMORY**2 * values[0] + MEMORY * values[1] + values[2]) / (1 + MEMORY + MEMORY**2)
    torch.testing.assert_close(moves.differences, recent)  # what budgets go by is as under any prior


def test_the_mean_of_many_evaluations_is_that_of_the_last_ones() -> None:
    """400 noisy evaluations of standard deviation 1 have an error of √(16/7/400) = 0.076; 5 of these are 0.38 nats."""
    torch.manual_seed(0)
    net, moves = fixed()
    target = torch.linspace(-2, 2, S)
    for k in range(400):
        drift = 5.0 if k < 100 else 0.0  # what was long ago is forgotten: weight (100/400)^4
        gather(moves, (target + torch.randn(S) + drift) / EXAMPLES)
        moves.exact.step(0.1)
    errors = torch.logit(net.theta.detach()) + target + EXAMPLES * net.price
    assert float(errors.abs().max()) < 0.38 + 5 * 0.25**4
    assert 0.03 < float(errors.std()) < 0.15


def test_under_a_fixed_prior_settling_moves_by_size_at_most_and_rounds_what_is_certain() -> None:
    net, moves = fixed()
    with torch.no_grad():
        net.theta.fill_(0.5)
    gather(moves, torch.full((S,), 30 / EXAMPLES))  # 30 nats against every gate
    moves.exact.step(0.2)
    torch.testing.assert_close(net.theta.detach(), torch.full((S,), 0.3))
    for _ in range(2):
        gather(moves, torch.full((S,), 30 / EXAMPLES))
        moves.exact.step(0.2)
    assert torch.equal(net.theta.detach(), torch.zeros(S))
    assert torch.sigmoid(torch.tensor(-30.0)) < EDGE
    assert bool((moves.net_cost > 0).all())  # the evidence for a removal
