"""Derivatives corrected by exact differences: no bias, signs that are wrong as rarely as stated, costs as allowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.infer import BatchObjective, BayesianNet, GateSample
from bayesprune.infer.differences import example_differences
from bayesprune.methods.svi import exact as steps
from bayesprune.methods.svi.exact import ExactSteps
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import all_gates, enumerated_gradient, probabilities
from tests.training.problems import bayesian, examples, units


def slopes(net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor) -> Tensor:
    """∂C/∂ξ of each example."""
    leaf = xi.clamp(min=1e-9).requires_grad_()
    BatchObjective(net, x, y)(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("build", [nets.units, nets.smooth_units, nets.linear_units])
def test_what_is_added_has_no_bias_even_if_clear_gates_are_measured_no_more(build: Any) -> None:
    """Σ (difference − v − c) over what was measured has mean 0, whenever measuring stops (Wald), c being the truth.

    Of 100 runs of up to 4 batches, each gate's total is off by more than 4.5 standard errors once in 10^5.
    """
    case = Case(build, rows=24)
    net = case.net.eval()
    exact = enumerated_gradient(case) - net.price
    vectors = all_gates(net.num_gates)
    count, rows = len(vectors), vectors.repeat_interleave(24, 0)
    x, y = case.x.repeat(count, 1), case.y.repeat(count, *[1] * (case.y.dim() - 1))
    values = ExactSteps(net, torch.clone).add_values(slopes(net, x, y, rows), rows, len(x))
    weight = probabilities(net.theta.detach(), vectors).repeat_interleave(24)
    correction = exact - weight @ values / 24
    off = []
    torch.manual_seed(1)
    for _ in range(100):
        moves, wanted = ExactSteps(net, torch.clone), torch.ones(net.num_gates, dtype=torch.bool)
        error = torch.zeros(net.num_gates, dtype=torch.float64)
        for _ in range(4):
            chosen = torch.randint(len(case.x), (8,))
            batch, targets = case.x[chosen], case.y[chosen]
            xi = net.sample_gates(batch)
            values = moves.add_values(slopes(net, batch, targets, xi), xi, 8)
            gaps, measured = moves.gaps.clone(), moves.measured.clone()
            moves.add(batch, targets, GateSample(xi, []), values=values, wanted=wanted)
            error += moves.gaps - gaps - (moves.measured - measured) * correction
            difference, doubt, _ = moves.estimate()
            wanted = difference.abs() < 1.0 * doubt
            if not bool(wanted.any()):
                break
        off.append(error)
    found = torch.stack(off)
    assert bool((found.mean(0).abs() < 4.5 * found.std(0) / 10 + 1e-3).all())


def known(net: BayesianNet, rho: Tensor, seed: int, truth: Tensor) -> ExactSteps:
    """Some evaluations of differences whose mean is ``truth``: many derivatives with a bias, few corrections."""
    generator = torch.Generator().manual_seed(seed)
    bias = rho * (1 + 0.7 * torch.randn(len(rho), generator=generator))
    moves = ExactSteps(net, torch.clone)
    for k in range(5):
        shape = (200, len(rho))
        values = truth - bias + 10 * rho * torch.randn(shape, generator=generator)
        moves.values += values.sum(0)
        moves.value_squares += values.square().sum(0)
        moves.seen += 200
        moves.count += 1
        some = torch.rand(len(rho), generator=generator) < 0.5
        moves.add_gaps(bias + 4 * rho * torch.randn((40, len(rho)), generator=generator), some, 40)
        if k < 4:
            moves.fade()
    return moves


@pytest.mark.parametrize("cost", [0.0, 3.0])
def test_a_structure_seems_not_worth_its_price_as_rarely_as_stated(cost: float) -> None:
    """Of structures worth exactly their price at most one in twenty is found to cost more, of costly ones nearly all.

    1,400 signs: the rate's standard deviation is 0.006 at 5 %.
    """
    net = bayesian(units())
    rho = net.price
    found = []
    for seed in range(100):
        moves = known(net, rho, seed, (cost - 1) * rho)
        with torch.no_grad():
            net.theta.fill_(0.5)
        moves.step(0.0)
        found.append(moves.least_cost > 0)
    rate = float(torch.stack(found).float().mean())
    assert 0.003 < rate < 0.05 + 3 * 0.006 if cost == 0 else rate > 0.9


@pytest.mark.parametrize("part", [0.5, 1.5])
@pytest.mark.parametrize("every", [1, 4])
def test_signs_are_wrong_as_rarely_as_stated_where_the_same_examples_bring_derivative_and_correction(
    part: float, every: int
) -> None:
    """v is a part of the difference, which one in so many examples tells: errors beyond 1.645 in one of twenty.

    2,800 signs: the rate's standard deviation is 0.0041 at 5 %. Were v̄ and c independent, rates would be 0.09 to 0.12
    for v half the difference, and 0.005 to 0.012 for one and a half of it.
    """
    net, beyond = bayesian(units()), []
    for seed in range(200):
        generator, moves = torch.Generator().manual_seed(seed), ExactSteps(net, torch.clone)
        truth = 0.3 * torch.randn(14, generator=generator)
        for _ in range(4):
            moves.fade()
            differences = truth + torch.randn((64, 14), generator=generator)
            values = part * differences
            moves.values += values.sum(0)
            moves.value_squares += values.square().sum(0)
            moves.seen += 64
            some = slice(64 // every)
            gaps = (differences - values)[some]
            moves.add_gaps(gaps, torch.ones(14, dtype=torch.bool), len(gaps), values[some])
        difference, error, correction = moves.estimate()
        assert bool((error >= correction).all())
        beyond.append((truth - difference) / error > steps.DOUBT)
    rate = float(torch.cat(beyond).float().mean())
    assert 0.05 - 4 * 0.0041 < rate < 0.05 + 3 * 0.0041


@pytest.mark.parametrize("part", [0.5, 0.0])
def test_signs_that_are_measured_until_they_are_clear_are_wrong_as_rarely_as_stated(part: float) -> None:
    """Structures worth their price: after each of 8 evaluations at most one in twenty is found to cost more.

    2,800 signs an evaluation: the rate's standard deviation is 0.0041 at 5 %. Were signs measured no more from 1.645
    errors on, rates would be up to 0.072 for v half of the difference, and 0.09 for none of it.
    """
    net = bayesian(nn.Sequential(*(layers.Linear(8, 8, gate="unit") for _ in range(35)), nn.Linear(8, 2)))
    rho, costly = net.price, torch.zeros(8)
    for seed in range(10):
        generator, moves = torch.Generator().manual_seed(seed), ExactSteps(net, torch.clone)
        with torch.no_grad():
            net.theta.fill_(0.5)
        shift = 0.7 * rho * torch.randn(280, generator=generator)
        for look in range(8):
            differences = -rho + 4 * rho * torch.randn((160, 280), generator=generator)
            values = part * differences + shift
            moves.values += values.sum(0)
            moves.value_squares += values.square().sum(0)
            moves.seen += 160
            moves.count += 1
            wanted = torch.zeros(280, dtype=torch.bool).index_fill_(0, moves.candidates(), True)
            moves.add_gaps((differences - values)[:40] * wanted, wanted, 40, values[:40])
            moves.step(0.0)
            costly[look] += float((moves.least_cost > 0).float().mean()) / 10
    assert float(costly.max()) < 0.05 + 3 * 0.0041
    assert float(costly.min()) > 0.02


def test_what_is_measured_goes_into_the_covariance() -> None:
    net = bayesian(units()).eval()
    x, y = examples(20)
    moves, wanted = ExactSteps(net, torch.clone), torch.arange(14) % 3 > 0
    gates = net.sample_gates(x)
    values = torch.randn(20, 14, generator=torch.Generator().manual_seed(0))
    moves.add(x, y, GateSample(gates, []), values=values, wanted=wanted)
    gaps = example_differences(net, x, y, gates, wanted=wanted)[0].T - values
    torch.testing.assert_close(moves.products, (values * gaps).sum(0) * wanted)
    moves.fade()
    torch.testing.assert_close(moves.products, 0.9 * (values * gaps).sum(0) * wanted)


def test_many_examples_of_its_own_outweigh_the_layer() -> None:
    """c of one gate is far from those of its layer: after 10,000 examples it is its own mean, but for a hundredth."""
    net = bayesian(units())
    moves = ExactSteps(net, torch.clone)
    truth = torch.zeros(14)
    truth[2] = 1.0
    torch.manual_seed(0)
    gaps = truth + 0.1 * torch.randn(10_000, 14)
    moves.add_gaps(gaps, torch.ones(14, dtype=torch.bool), 10_000)
    torch.testing.assert_close(moves.estimate()[0], gaps.mean(0), rtol=0.01, atol=1e-3)
    moves = ExactSteps(net, torch.clone)
    moves.add_gaps(gaps[:40], torch.arange(14) != 3, 40)
    difference, error, _ = moves.estimate()
    assert float(error[3]) > 0.1 > float(error[4])  # one like the third may be among those not measured
    assert abs(float(difference[3])) < 0.5


def test_the_correction_is_the_posterior_of_its_layer() -> None:
    """Computed anew gate by gate: a line through the layer's means, its residual variance, two precisions added."""
    net = bayesian(nn.Sequential(layers.Linear(8, 12, gate="unit"), nn.Tanh(), nn.Linear(12, 2)))
    moves = ExactSteps(net, torch.clone)
    generator = torch.Generator().manual_seed(4)
    seen = torch.randn((50, 12), generator=generator, dtype=torch.float64) + 0.2
    bends = torch.rand(12, generator=generator, dtype=torch.float64)
    counts = [40, 40, 0, 24, 40, 8, 16, 0, 40, 40, 32, 40]
    centres = 0.5 * bends + 0.2 * torch.randn(12, generator=generator, dtype=torch.float64)
    gaps = [c + 0.3 * torch.randn((n, 1), generator=generator).double() for c, n in zip(centres, counts, strict=True)]
    moves.values, moves.value_squares = seen.sum(0).float(), seen.square().sum(0).float()
    moves.bends, moves.seen = (50 * bends).float(), 50
    for s, gap in enumerate(gaps):
        if len(gap):
            moves.add_gaps(gap.float().expand(-1, 12), torch.arange(12) == s, len(gap))
    some = [s for s in range(12) if counts[s]]
    n = torch.tensor([counts[s] for s in some], dtype=torch.float64)
    means = torch.stack([gaps[s].mean() for s in some])
    own = torch.stack([gaps[s].var(correction=0) for s in some]) * n  # sums of squares
    mixed = (own + 4 * own.sum() / n.sum()) / (n + 3)
    root = n.sqrt()[:, None]
    design = torch.stack([torch.ones(10, dtype=torch.float64), bends[some]], 1)
    line = torch.linalg.lstsq(root * design, root * means[:, None]).solution[:, 0]
    about = float((n * (means - design @ line).square()).sum() / n.sum())
    chance = float(mixed.sum() / n.sum())
    between = max(about * 10 / 6 - chance, 0) * 1.2 + 2 * chance / 10
    assert about * 10 / 6 > chance
    for s in range(12):
        prior = float(line[0] + line[1] * bends[s])
        precision, weighted = 1 / between, prior / between
        if s in some:
            k = some.index(s)
            precision += float(n[k] / mixed[k])
            weighted += float(means[k] * n[k] / mixed[k])
        difference, error, correction = (float(found[s]) for found in moves.estimate())
        value = seen[:, s]
        assert correction == pytest.approx(precision**-0.5, rel=1e-4)
        assert difference == pytest.approx(float(value.mean()) + weighted / precision, rel=1e-4, abs=1e-5)
        assert error == pytest.approx((1 / precision + float(value.var(correction=0)) / 49) ** 0.5, rel=1e-4)


def test_of_gates_that_were_not_measured_signs_are_wrong_as_rarely_as_stated() -> None:
    """Layers of 8 and 6 gates, a third of which the rest must tell of: errors beyond 1.645 in one of twenty at most.

    Some 1,400 signs: the rate's standard deviation is 0.006 at 5 %.
    """
    net, beyond = bayesian(units()), []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        bends, truth = torch.rand(14, generator=generator), torch.randn(14, generator=generator)
        correction = 0.5 * bends + 0.3 * torch.randn(14, generator=generator)
        measured = torch.rand(14, generator=generator) < 2 / 3
        moves = ExactSteps(net, torch.clone)
        values = truth - correction + torch.randn((400, 14), generator=generator)
        moves.values, moves.value_squares = values.sum(0), values.square().sum(0)
        moves.bends, moves.seen = 400 * bends, 400
        moves.add_gaps(correction + 0.5 * torch.randn((40, 14), generator=generator), measured, 40)
        difference, error, _ = moves.estimate()
        beyond.append(((truth - difference) / error)[~measured] > steps.DOUBT)
    rate = float(torch.cat(beyond).float().mean())
    assert 0.003 < rate < 0.05 + 3 * 0.006


def test_only_gates_in_doubt_for_want_of_a_correction_are_candidates() -> None:
    net = bayesian(units())
    moves = known(net, net.price, 0, torch.linspace(-9, 7, 14) * net.price)
    difference, error, correction = moves.estimate()
    doubt = (difference + net.price).abs() / error
    found = moves.candidates()
    assert set(found.tolist()) == {s for s in range(14) if doubt[s] < steps.CLEAR and 2 * correction[s] >= error[s]}
    assert bool((doubt[found].diff() >= 0).all())
    assert len(ExactSteps(net, torch.clone).candidates()) == 14  # of which nothing is known
