"""The Bayesian network: what its constructor refuses, how it owns θ, and its predictions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bayesprune import layers
from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import ConfigError, DataError, GateError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate, Residual, gates_of
from tests.infer import nets
from tests.infer.nets import Case, weight_penalty
from tests.infer.verify import all_gates, probabilities, verify_mean

# θ as one vector ------------------------------------------------------------------------------------------------------


def verify_aliased(net: BayesianNet) -> None:
    """θ and the gates' own ``theta`` are the same numbers, whichever of them is written."""
    theta = net.theta
    assert theta.is_leaf and theta.requires_grad and net.theta is theta
    with torch.no_grad():
        theta.copy_(torch.linspace(0, 1, len(theta)))
    assert torch.equal(torch.cat([net._gates[name].theta.detach() for name in net.gate_names]), theta.detach())
    last = net._gates[net.gate_names[-1]].theta
    with torch.no_grad():
        last.fill_(0.125)
    assert bool((net.theta[-len(last) :] == 0.125).all())
    probs = net.gate_probs()
    assert all(torch.equal(probs[name], part) for name, part in net.by_gate(net.theta.detach()).items())


def loaded(net: BayesianNet, assign: bool) -> BayesianNet:
    other = Case(nets.mixed, (0.25,)).net
    net.load_state_dict(other.state_dict(), assign=assign)
    assert bool((net.theta == 0.25).all())
    return net


TRANSFORMS: dict[str, Callable[[BayesianNet], BayesianNet]] = {
    "nothing": lambda net: net,
    "deepcopy": copy.deepcopy,
    "float": lambda net: net.float(),
    "to": lambda net: net.to(torch.float32),
    "load_state_dict": lambda net: loaded(net, assign=False),
    "load_state_dict, assign": lambda net: loaded(net, assign=True),
    "deepcopy of a cast": lambda net: copy.deepcopy(net.float()),
    "cast of a deepcopy": lambda net: copy.deepcopy(net).float(),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_theta_and_the_gates_are_the_same_numbers_after(name: str) -> None:
    net = TRANSFORMS[name](Case(nets.mixed).net)
    verify_aliased(net)
    assert net.theta.dtype == (torch.float32 if "float" in name or "cast" in name or name == "to" else torch.float64)


def test_a_deepcopy_is_another_network() -> None:
    case = Case(nets.mixed)
    other = copy.deepcopy(case.net)
    before = case.net.theta.detach().clone()
    with torch.no_grad():
        other.theta.zero_()
    assert torch.equal(case.net.theta, before)
    xi = torch.zeros(case.net.num_gates).double()
    assert not torch.equal(other(case.x), case.net(case.x, xi + 1))
    torch.testing.assert_close(other(case.x), case.net(case.x, xi))


def test_a_state_dict_round_trip_keeps_predictions() -> None:
    first, second = Case(nets.mixed, (0.9, 0.1)), Case(nets.mixed, (0.5,))
    with torch.no_grad():
        for p in second.net.weights().values():
            p.normal_()
    second.net.load_state_dict(first.net.state_dict())
    assert torch.equal(second.net(first.x), first.net(first.x))
    assert torch.equal(second.net.log_gamma, first.net.log_gamma)


def test_order_of_gates() -> None:
    """Branches first; ``gate_probs`` in the order of the modules."""
    net = Case(nets.mixed).net
    assert net.gate_names == ["1", "2", "6", "2.body.0", "3"]
    assert net.num_branches == net.num_shared == 3 and net.num_gates == 7
    assert list(net.gate_probs()) == list(gates_of(net.net))
    assert [len(part) for part in net.by_gate(net.theta).values()] == [1, 1, 1, 2, 2]


def test_weights_are_all_parameters_but_the_gates() -> None:
    net = Case(nets.mixed).net
    names = {name for name, _ in net.net.named_parameters()}
    assert set(net.weights()) == {name for name in names if not name.endswith("theta")}
    assert len(names) - len(net.weights()) == 5


def test_price_and_slab() -> None:
    net = Case(nets.units).net
    torch.testing.assert_close(net.price, net.log_gamma / nets.NUM_DATA)
    squares = sum(float(p.detach().square().sum()) for p in net.weights().values())
    assert float(weight_penalty(net).detach()) == pytest.approx(0.1 / (2 * nets.NUM_DATA) * squares, rel=1e-6)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_the_slab_is_summed_in_single_precision_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    net = Case(nets.units).net.to(dtype)
    squares = sum((p.detach().double().square().sum() for p in net.weights().values()), torch.zeros(()).double())
    penalty = weight_penalty(net).detach()
    assert penalty.dtype == expected
    exact = float(0.1 / (2 * nets.NUM_DATA) * squares)
    assert float(penalty) == pytest.approx(exact, rel=4 * torch.finfo(expected).eps)


# forward --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_forward_takes_a_vector_a_row_or_a_row_an_example(name: str) -> None:
    case = Case(getattr(nets, name))
    xi = (torch.arange(case.net.num_gates) % 2).double()
    expected = case.net(case.x, xi)
    for given in (xi[None], xi.expand(nets.ROWS, -1)):
        torch.testing.assert_close(case.net(case.x, given), expected)
    torch.testing.assert_close(case.net(case.x, xi, skip=True), expected)


@pytest.mark.parametrize("name", ["units", "mixed"])
def test_every_example_gets_its_own_gates(name: str) -> None:
    case = Case(getattr(nets, name))
    xi = case.net.sample_gates(case.x)
    together = case.net(case.x, xi)
    alone = torch.cat([case.net(case.x[i : i + 1], xi[i]) for i in range(nets.ROWS)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", ["units", "branches", "mixed"])
def test_without_gates_given_it_uses_their_mode(name: str) -> None:
    case = Case(getattr(nets, name), (0.2, 0.8, 0.5))
    mode = (case.net.theta.detach() > 0.5).double()
    torch.testing.assert_close(case.net(case.x), case.net(case.x, mode))
    torch.testing.assert_close(case.net.net.eval()(case.x), case.net(case.x, mode))


def test_skipped_branches_cost_nothing() -> None:
    case = Case(nets.branches)
    counts = []
    for on in range(6):
        xi = (torch.arange(5) < on).double()
        with FlopCounterMode(display=False) as counter:
            case.net(case.x, xi, skip=True)
        counts.append(counter.get_total_flops())
    assert [b - a for a, b in pairwise(counts)] == [2 * nets.ROWS * 4 * 4] * 5
    assert counts[0] == 2 * nets.ROWS * (3 * 4 + 4 * 3)


def test_draws_are_shared_by_the_batch_for_branches_and_one_an_example_for_units() -> None:
    for name, rows in (("units", nets.ROWS), ("branches", 1), ("mixed", nets.ROWS)):
        case = Case(getattr(nets, name))
        xi = case.net.sample_gates(case.x)
        assert xi.shape == (rows, case.net.num_gates)
        shared = case.net.num_shared
        assert torch.equal(xi[:, :shared], xi[:1, :shared].expand(rows, -1))


# predictions ----------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["units", "branches"])
def test_predict_averages_over_the_posterior(name: str) -> None:
    """Against enumeration; fails by chance at 6e-5 an entry, 18 entries."""
    case = Case(getattr(nets, name))
    vectors = all_gates(case.net.num_gates)
    weights = probabilities(case.net.theta.detach(), vectors)
    with torch.no_grad():
        expected = sum(w * case.net(case.x, v).softmax(-1) for w, v in zip(weights, vectors, strict=True))
    prediction = case.net.predict(case.x, num_samples=400)
    torch.testing.assert_close(prediction.mean, prediction.samples.mean(0))
    verify_mean(prediction.samples.flatten(1), expected.flatten(), "predict")


def test_predict_with_no_samples_uses_the_mode_in_eval_mode_and_leaves_the_mode_of_training() -> None:
    case = Case(nets.normalised_branches)
    case.net.train()
    prediction = case.net.predict(case.x, num_samples=0)
    assert case.net.training and case.net.net[1].body.training
    torch.testing.assert_close(prediction.mean, case.net.eval()(case.x).softmax(-1).detach())
    assert prediction.samples.shape == (1, nets.ROWS, 3) and not prediction.mean.requires_grad


def test_predict_refuses() -> None:
    case = Case(nets.units)
    with pytest.raises(ConfigError, match="num_samples must be a whole number, at least 0, got -1"):
        case.net.predict(case.x, num_samples=-1)
    case.x[2, 1] = float("nan")
    with pytest.raises(DataError, match="inputs hold NaN or infinite values"):
        case.net.predict(case.x)


# constructor ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_data": 0}, "num_data must be a whole number, at least 1, got 0; it is the number of training examples"),
        ({"num_data": 9, "weight_precision": -1.0}, "weight_precision must be finite and not negative, got -1.0"),
        ({"num_data": 9, "weight_precision": float("inf")}, "weight_precision must be finite"),
        ({"num_data": 9, "likelihood": "cauchy"}, "unknown likelihood 'cauchy'"),
        (
            {"num_data": 9, "prior": FlatteningPrior(torch.ones(3))},
            r"log_gamma has shape \(3,\), but the network has 7 gates; give one number, or one a gate",
        ),
        ({"num_data": 9, "prior": FlatteningPrior(torch.ones(2, 7))}, r"has shape \(2, 7\)"),
    ],
)
def test_constructor_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BayesianNet(nets.units(), **arguments)


@pytest.mark.parametrize(
    "arguments", [{"prior": FlatteningPrior(torch.ones(5))}, {"likelihood": "categorial"}], ids=["prior", "likelihood"]
)
def test_what_is_refused_leaves_the_network_to_others(arguments: dict) -> None:
    net = nn.Sequential(Gate(3, theta=0.4), nn.Linear(3, 2))
    first, x = BayesianNet(net, num_data=2), torch.randn(4, 3)
    with pytest.raises(ConfigError):
        BayesianNet(net, num_data=2, slab="normal", **arguments)
    assert type(net[1]) is nn.Linear
    assert torch.equal(first(x, torch.ones(3)), net[1](x))


def test_a_network_that_belongs_to_another_model_takes_no_gates_of_the_first() -> None:
    net = nn.Sequential(Gate(3), nn.Linear(3, 2))
    first, x = BayesianNet(net, num_data=2), torch.randn(4, 3)
    second = BayesianNet(net, num_data=2)
    with pytest.raises(ConfigError, match="belongs to a later BayesianNet"):
        first(x, torch.zeros(3))
    assert torch.equal(second(x, torch.zeros(3)), net[1](0 * x))


def test_a_network_without_gates_is_refused() -> None:
    with pytest.raises(GateError, match="the network has no gate, so there is nothing to prune"):
        BayesianNet(nn.Linear(3, 3), num_data=9)


def test_a_gate_where_off_is_not_removal_is_refused() -> None:
    with pytest.raises(GateError, match="comes before 1, a BatchNorm1d"):
        BayesianNet(nn.Sequential(Gate(3), nn.BatchNorm1d(3), nn.Linear(3, 3)), num_data=9)


def test_prices_one_a_gate_in_the_order_of_names() -> None:
    log_gamma = torch.arange(1.0, 8.0)
    net = BayesianNet(nets.mixed(), num_data=10, prior=FlatteningPrior(log_gamma))
    assert {name: part.tolist() for name, part in net.by_gate(net.log_gamma).items()} == {
        "1": [1.0],
        "2": [2.0],
        "6": [3.0],
        "2.body.0": [4.0, 5.0],
        "3": [6.0, 7.0],
    }
    default = BayesianNet(nets.mixed(), num_data=10)
    assert default.log_gamma.tolist() == [18.0] * 7


def test_replace_goes_on_with_a_smaller_network() -> None:
    case = Case(nets.branches)
    smaller = nn.Sequential(*list(case.net.net)[:3], case.net.net[-1])
    assert case.net.replace(smaller, {name: torch.tensor([0]) for name in ("1", "2")}).tolist() == [0, 1]
    assert case.net.num_gates == 2 and case.net.gate_names == ["1", "2"]
    verify_aliased(case.net)
    case.net.replace(nn.Sequential(smaller[0], smaller[-1]), {})
    assert case.net.num_gates == 0 and case.net.theta.shape == (0,)
    torch.testing.assert_close(case.net(case.x), smaller[-1](smaller[0](case.x)))


def test_a_gate_of_several_numbers_may_be_shared_by_the_batch() -> None:
    net = BayesianNet(
        nn.Sequential(
            Gate(3, per_batch=True),
            nn.Linear(3, 4),
            Residual(nn.Linear(4, 4)),
            layers.Linear(4, 2, gate="unit"),
            nn.ReLU(),
            nn.Linear(2, 3),
        ),
        num_data=9,
    )
    assert net.gate_names == ["2", "0", "3"] and (net.num_branches, net.num_shared) == (1, 4)
    xi = net.sample_gates(torch.randn(50, 3))
    assert torch.equal(xi[:, :4], xi[:1, :4].expand(50, -1)) and bool((xi[:, 4:] != xi[:1, 4:]).any())


def test_what_is_inferred_is_shown_before_the_network() -> None:
    net = BayesianNet(nn.Sequential(Gate(3), nn.Linear(3, 1)), num_data=1437, prior=FlatteningPrior(4.0))
    assert repr(net).splitlines()[1].strip() == "num_data=1437, gates=3, prior=FlatteningPrior(log γ 4), weights=point"
