"""Gates drawn for a batch: their law, what the host knows of them, and that processes agree."""

from __future__ import annotations

import pytest
import torch

from bayesprune.infer import BayesianNet, GateSampler
from tests.infer import nets
from tests.infer.nets import Case


def mixed() -> BayesianNet:
    """Three branches and four units, θ at 0, 1 and between."""
    return Case(nets.mixed, (0.3, 0.0, 1.0, 0.7, 0.5)).net


@pytest.mark.statistical
def test_every_gate_is_on_as_often_as_its_theta_says() -> None:
    """Each of 7 frequencies misses its θ by more than 4.5 standard errors with probability below 7e-6."""
    net = mixed()
    sampler = GateSampler(net, 1)
    draws = torch.cat([sampler(32).xi for _ in range(2000)])
    theta = net.theta.detach()
    count = torch.where(torch.arange(net.num_gates) < net.num_shared, 2000.0, 64000.0)
    error = (theta * (1 - theta) / count).sqrt()
    assert ((draws.mean(0) - theta).abs() <= 4.5 * error + 2**-15).all()
    assert not draws[:, theta == 0].any() and draws[:, theta == 1].all()


def test_what_the_host_knows_is_what_was_drawn() -> None:
    net = mixed()
    sampler = GateSampler(net, 2)
    for _ in range(20):
        xi, on = sampler(nets.ROWS)
        assert xi.shape == (nets.ROWS, net.num_gates)
        assert torch.equal(xi[:, : net.num_branches] > 0.5, torch.tensor(on).expand(nets.ROWS, -1))


@pytest.mark.parametrize("rows", [7, 64, 200])
@pytest.mark.parametrize("build", [nets.mixed, nets.units, nets.shared_units, nets.branches])
def test_processes_together_draw_what_one_would(rows: int, build) -> None:
    """With 200 rows, 50 are distinct, so that the parts begin in the middle of a repetition."""
    net = Case(build, (0.3, 0.7, 0.5)).net
    one, parts = GateSampler(net, 3), [GateSampler(net, 3) for _ in range(3)]
    for _ in range(3):
        whole = one(rows)
        bounds = [0, rows // 3, 2 * rows // 3, rows]
        drawn = [parts[k](rows, bounds[k], bounds[k + 1]) for k in range(3)]
        assert all(part.on == whole.on for part in drawn)
        if len(whole.xi) == 1:
            assert all(torch.equal(part.xi, whole.xi) for part in drawn)
        else:
            assert torch.equal(torch.cat([part.xi for part in drawn]), whole.xi)


def test_it_leaves_the_global_random_numbers_alone_and_can_be_taken_up() -> None:
    net = mixed()
    sampler = GateSampler(net, 4)
    before = torch.get_rng_state()
    sampler(32)
    state = sampler.state()
    expected = [sampler(32).xi for _ in range(3)]
    other = GateSampler(net, 5)
    other.load(state)
    assert all(torch.equal(other(32).xi, xi) for xi in expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_theta_that_moved_is_followed() -> None:
    net = mixed()
    sampler = GateSampler(net, 6)
    for value in (0.0, 1.0):
        with torch.no_grad():
            net.theta.fill_(value)
        sampler.refresh()
        sample = sampler(16)
        assert sample.on == [bool(value)] * 3 and (sample.xi == value).all()


def test_no_branches_left() -> None:
    net = Case(nets.units, (0.5,)).net
    sample = GateSampler(net, 7)(5)
    assert sample.on == [] and sample.xi.shape == (5, 7)


def test_nothing_is_drawn_where_all_gates_are_certain() -> None:
    """Until θ moves again, whoever moves it."""
    net = Case(nets.mixed, (0.0, 1.0, 1.0, 1.0, 0.0)).net
    sampler = GateSampler(net, 8)
    theta, state = net.theta.detach(), sampler.state()
    for repeated in (True, False):
        sample = sampler(40, repeated=repeated)
        assert torch.equal(sample.xi, theta.expand(40 if repeated else 1, -1))
        assert sample.on == (theta[: net.num_branches] == 1).tolist()
    assert all(torch.equal(value, state[name]) for name, value in sampler.state().items())
    with torch.no_grad():
        net.theta[-1] = 0.5
    assert 0 < sampler(64).xi[:, -1].sum() < 64


def test_what_is_on_for_certain_is_known_until_theta_moves() -> None:
    net = Case(nets.units, (1.0,)).net
    sampler = GateSampler(net, 9)
    assert list(sampler.whole) == [True] * len(net.gates())
    with torch.no_grad():
        net.theta[0] = 0.5
    assert list(sampler.whole) == []
    sampler.synchronize()
    assert list(sampler.whole) == [None] + [True] * (len(net.gates()) - 1)


@pytest.mark.parametrize("build", [nets.mixed, nets.units, nets.shared_units, nets.branches])
def test_rows_that_examples_have_in_turn(build) -> None:
    """Of 128 rows 32 are distinct, of 100 as many, which do not go into them evenly, and of 16 all."""
    net = Case(build, (0.3, 0.7, 0.5)).net
    one, other = GateSampler(net, 10), GateSampler(net, 10)
    for rows in (128, 100, 16):
        full, short = one(rows).xi, other(rows, repeated=False).xi
        assert len(short) == (len(full) if rows == 100 or len(full) == 1 else min(32, rows))
        assert torch.equal(short.repeat(len(full) // len(short), 1), full)


@pytest.mark.parametrize("build", [nets.mixed, nets.units])
def test_gates_that_are_known_to_be_on_change_nothing(build) -> None:
    """Outputs and gradients of the pass that multiplies by all of them."""
    net = Case(build, (1.0,)).net
    sampler = GateSampler(net, 11)
    x = torch.randn(nets.ROWS, 3).double()
    xi, on = sampler(nets.ROWS, repeated=False)
    found = []
    for known in ([*on, *sampler.whole], on):
        net.zero_grad()
        output = net(x, xi, skip=True, on=known)
        output.square().sum().backward()
        found.append([output.detach(), *(p.grad for p in net.weights().values())])
    assert len(sampler.whole) > 0
    torch.testing.assert_close(*found)
