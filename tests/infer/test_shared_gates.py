"""Inference where one gate multiplies in several places: its derivative is that of all of them together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.infer import BatchObjective, paired_differences
from bayesprune.layers import Gate, Residual
from tests.infer import nets
from tests.infer.nets import Case
from tests.infer.verify import enumerated_gradient, estimate, verify_estimator
from tests.layers.shared import VECTORS


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("thetas", [(0.3, 0.7, 0.5), (0.0, 1.0)])
def test_a_flip_flips_all_uses(name: str, thetas: tuple[float, ...]) -> None:
    case = Case(VECTORS[name], thetas)
    xi = case.net.sample_gates(case.x)
    mean, error = paired_differences(case.net, case.x, case.y, xi)
    for s in range(case.net.num_gates):
        on, off = xi.clone(), xi.clone()
        on[..., s], off[..., s] = 1.0, 0.0
        losses = [case.net.likelihood.nll(case.net(case.x, gates), case.y).detach() for gates in (on, off)]
        torch.testing.assert_close(mean[s], (losses[0] - losses[1]).mean())
        torch.testing.assert_close(error[s], (losses[0] - losses[1]).std() / nets.ROWS**0.5)


@pytest.mark.parametrize("name", VECTORS)
def test_exact_is_the_definition(name: str) -> None:
    case = Case(VECTORS[name])
    _, gradient = estimate(case, "exact", case.net.sample_gates(case.x))
    torch.testing.assert_close(gradient, enumerated_gradient(case), rtol=1e-9, atol=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("estimator", "name"), [("paired", "together"), ("paired", "stream"), ("disarm", "twice"), ("auto", "together")]
)
def test_estimates_are_unbiased(estimator: str, name: str) -> None:
    """Of "auto" those of the gates that a batch shares. Fails by chance at 6e-5 a gate, at most nine gates."""
    case = Case(VECTORS[name], (0.2, 0.9, 0.5))
    verify_estimator(
        estimator, case, draws=400, unbiased=slice(0, case.net.num_shared if estimator == "auto" else None)
    )


def test_passes_are_resumed_at_the_first_place() -> None:
    case = Case(VECTORS["together"], (1.0,))
    assert case.net.gate_names == ["0", "2", "3.body.0"]
    assert case.net.resumption.behind == [[0, 1, 2], [0, 1, 2], [0, 2]]
    assert Case(VECTORS["twice"]).net.resumption.behind == [None]


@pytest.mark.parametrize("training", [True, False])
def test_a_resumed_pass_gives_what_a_whole_pass_gives(training: bool) -> None:
    case = Case(VECTORS["together"])
    case.net.train(training)
    torch.manual_seed(0)
    for _ in range(4):
        xi = case.net.sample_gates(case.x)
        objective = case.objective
        objective(xi, skip=True, watch=range(case.net.num_shared))
        for s in range(case.net.num_shared):
            flipped = xi.clone()
            flipped[:, s] = 1 - flipped[:, s]
            expected = case.net.likelihood.nll(case.net(case.x, flipped), case.y)
            torch.testing.assert_close(objective.flipped(s), expected, rtol=0, atol=1e-12)


def test_what_follows_each_place_sees_the_same_dropout_masks_whether_it_is_on_or_off() -> None:
    """Branches of one gate that add 0 but draw random numbers, with dropout between them and behind."""
    torch.manual_seed(0)
    both = Gate(1, per_batch=True)

    def block() -> Residual:
        body = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5))
        nn.init.zeros_(body[1].weight)
        nn.init.zeros_(body[1].bias)
        return Residual(body, gate=both)

    net = nn.Sequential(nn.Linear(3, 4), block(), nn.Dropout(0.5), block(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    bnn = bp.BayesianNet(net, num_data=10).double().train()
    x, y = torch.randn(5, 3).double(), torch.zeros(5, dtype=torch.long)
    for on in (1.0, 0.0):
        objective = BatchObjective(bnn, x, y)
        losses = objective(torch.tensor([[on]]).double(), skip=True, watch=[0])
        assert torch.equal(objective.flipped(0), losses.detach())


def test_branches_of_one_gate_are_skipped_together() -> None:
    case = Case(VECTORS["together"])
    bodies = case.net.branches([0])
    assert bodies == [case.net.net[0].body, case.net.net[3].body]
    assert [case.net.is_branch(name) for name in ("0", "2", "3.body.0")] == [True, True, False]


def test_normal_weights_behind_a_gate_count_in_all_places_with_its_theta() -> None:
    """Vertices: Σ Θ KL over the weights that are left, wherever the gate multiplies."""
    torch.manual_seed(0)
    wide = Gate(3, dim=-1)
    net = nn.Sequential(layers.Linear(3, 3, gate=wide), nn.Tanh(), layers.Linear(3, 3, gate=wide), nn.Linear(3, 2))
    bnn = bp.BayesianNet(net, num_data=10, slab="normal", slab_scale=1.0).double()
    theta = torch.tensor([1.0, 0.0, 1.0]).double()
    kept = theta > 0.5

    def divergence(mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        return (0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale).sum()

    expected = sum(
        divergence(net[i].weight[rows][:, columns], net[i].weight_log_scale[rows][:, columns])
        + divergence(net[i].bias[rows], net[i].bias_log_scale[rows])
        for i, rows, columns in ((0, kept, slice(None)), (2, kept, kept), (3, slice(None), kept))
    )
    torch.testing.assert_close(bnn.weights_posterior.divergence({"0": theta}), expected)
