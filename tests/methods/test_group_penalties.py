"""Penalties of whole groups of weights: their values, their slopes, and which units they take out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.methods import get_method
from bayesprune.methods.dropneuron import DropNeuron
from bayesprune.methods.group_lasso import GroupLasso
from bayesprune.methods.protocol.along import SumsAlong
from bayesprune.methods.protocol.structures import ranked_groups
from bayesprune.training import Settings, fit
from tests.methods.toys import batches, normalised
from tests.training.problems import branches


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        layers.Linear(8, 4, gate="unit"), nn.ReLU(), layers.Linear(4, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 2)
    )


def test_norms_are_those_of_rows_and_columns_and_have_a_slope_at_0() -> None:
    net = network()
    nn.init.zeros_(net[0].weight[1])
    first, second = ranked_groups(net, torch.zeros(1, 8))
    torch.testing.assert_close(SumsAlong(net, first, first.written).norms(net), net[0].weight.norm(dim=1))
    torch.testing.assert_close(SumsAlong(net, first, first.read).norms(net), net[2].weight.norm(dim=0))
    torch.testing.assert_close(SumsAlong(net, second, second.read).norms(net), net[4].weight.norm(dim=0))
    SumsAlong(net, first, first.written).norms(net).sum().backward()
    expected = net[0].weight / net[0].weight.norm(dim=1, keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(net[0].weight.grad, expected.detach())


def test_channels_of_maps_have_one_norm_for_all_their_columns() -> None:
    net = nn.Sequential(layers.Conv1d(1, 3, 2, gate="unit"), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2))
    (group,) = ranked_groups(net, torch.zeros(1, 1, 4))
    torch.testing.assert_close(
        SumsAlong(net, group, group.read).norms(net), net[3].weight.unflatten(1, (3, 3)).norm(dim=(0, 2))
    )


def test_the_loss_has_the_penalties_until_units_go() -> None:
    for method, expected in (
        (GroupLasso(penalty=0.5), lambda w: 0.5 * sum(float(w[k].norm(dim=1).sum()) for k in (0, 1))),
        (
            DropNeuron(l1=0.2, groups=0.3),
            lambda w: 0.1 * (
                0.2 * sum(float(part.abs().sum()) for part in w)
                + 0.3 * sum(float(w[k].norm(dim=1).sum() + w[k + 1].norm(dim=0).sum()) for k in (0, 1))
            ),
        ),
    ):  # fmt: skip
        net = network()
        weights = [net[k].weight.detach().clone() for k in (0, 2, 4)]
        rows = fit(net, batches(), epochs=4, method=method, settings=Settings(lr=1e-30)).rows
        assert rows[0].loss - rows[0].nll == pytest.approx(expected(weights), rel=1e-4)
        assert rows[3].loss == pytest.approx(rows[3].nll)


def test_units_go_that_little_goes_into_or_comes_out_of() -> None:
    net = network()
    with torch.no_grad():
        for k in (0, 2, 4):
            net[k].weight.copy_(torch.sign(net[k].weight) * (0.5 + net[k].weight.abs()))
        net[0].weight[1] *= 1e-3
        net[2].weight[:, 2] *= 1e-3
        net[4].weight[0, 0] = 1e-4
    fit(net, batches(), epochs=2, method=DropNeuron(threshold=0.02), settings=Settings(lr=1e-30))
    assert [gate.size for gate in layers.gates_of(net).values()] == [2, 3]
    assert (net[4].weight == 0).nonzero().tolist() == [[0, 0]]


def test_one_unit_stays_and_the_best_one() -> None:
    net = network()
    best = int(torch.minimum(net[0].weight.norm(dim=1), net[2].weight.norm(dim=0)).argmax())
    history = fit(net, batches(), epochs=2, method=DropNeuron(threshold=100.0), settings=Settings(lr=1e-30))
    assert [gate.size for gate in layers.gates_of(net).values()] == [1, 1]
    assert {r.index for r in history.removals if r.gate == "0"} == set(range(4)) - {best}


def test_rows_shrink_as_the_penalty_says() -> None:
    """½‖Y − XW‖² + λ Σ‖row‖ with orthonormal X: each row of the solution is (1 − λ/‖z‖)₊ z, z = XᵀY."""
    torch.manual_seed(3)
    x = torch.linalg.qr(torch.randn(40, 6).double())[0]
    z = torch.randn(3, 6).double() * torch.tensor([3.0, 1.0, 0.3])[:, None]
    y, lam = x @ z.T, 1.5
    net = nn.Sequential(layers.Linear(6, 3, bias=False, gate="unit"), nn.Linear(3, 3, bias=False)).double()
    net[1].weight.data = torch.eye(3).double()
    (group,) = ranked_groups(net, torch.zeros(1, 6).double())
    weight = net[0].weight
    for rate in (0.1, 0.01, 1e-3, 1e-4):
        for _ in range(400):
            loss = (y - x @ weight.T).square().sum() / 2 + lam * SumsAlong(net, group, group.written).norms(net).sum()
            (slope,) = torch.autograd.grad(loss, weight)
            weight.data -= rate * slope
    expected = (1 - lam / z.norm(dim=1, keepdim=True)).clamp(min=0) * z
    torch.testing.assert_close(weight.detach(), expected, atol=2e-3, rtol=0)


def test_what_cannot_be_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="'1' normalises batches"):
        fit(normalised(), batches(), epochs=2, method="dropneuron")
    for name in ("dropneuron", "group_lasso"):
        with pytest.raises(ConfigError, match="no gate holds several units"):
            fit(branches(), batches(), epochs=2, method=name)
    for name, option in (
        ("group_lasso", "penalty"),
        ("dropneuron", "l1"),
        ("dropneuron", "groups"),
        ("dropneuron", "threshold"),
    ):
        with pytest.raises(ConfigError, match=option):
            get_method(name, **{option: -1.0})
