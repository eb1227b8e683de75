"""What exact differences may cost: counted as torch counts it, kept to its share, and kept in checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bayesprune import layers
from bayesprune.infer import BayesianNet
from bayesprune.infer.differences import example_differences
from bayesprune.methods.svi import exact as steps
from bayesprune.methods.svi.allowance import Allowance
from bayesprune.methods.svi.flip_costs import FlipCosts
from bayesprune.training import Settings, fit
from tests.training.problems import Batches, bayesian, branches, examples


def test_costs_of_flips_are_those_that_are_counted() -> None:
    """Multiply-adds alone: of a pair what is behind the gate, in the linear layer next to it a row."""
    net = BayesianNet(
        nn.Sequential(layers.Linear(8, 50, gate="unit"), nn.Tanh(), nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 3)),
        num_data=50,
    ).eval()
    x, y = torch.randn(6, 8), torch.zeros(6, dtype=torch.long)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesprune.methods.svi.flip_costs.ENTRY", 0)
        costs = FlipCosts(net, x)
    assert costs.base == 8 * 50 + 50 * 20 + 20 * 3
    assert costs.flips.tolist() == [20 + 20 * 3] * 50
    xi, one = torch.ones(6, 50), torch.arange(50) == 7
    with FlopCounterMode(display=False) as without:
        example_differences(net, x, y, xi, wanted=one)
    with FlopCounterMode(display=False) as counter:
        example_differences(net, x, y, xi, wanted=torch.arange(50) < 10)
    assert (counter.get_total_flops() - without.get_total_flops()) / 2 == 9 * 6 * 20 * 3  # a row is no product


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_exact_differences_keep_to_their_share(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted over a whole run by torch, where signs are hardly ever clear, and nearly all of it is used.

    A flip takes about as much as a pass; were only half of them noted, 1.5 of the share would be used, where it is 0.1.
    """
    torch.manual_seed(0)
    x, y = examples()
    net = bayesian(
        nn.Sequential(
            layers.Linear(8, 40, gate="unit"), nn.ReLU(), layers.Linear(40, 40, gate="unit"), nn.ReLU(),
            nn.Linear(40, 200), nn.ReLU(), nn.Linear(200, 2),
        )
    )  # fmt: skip
    spent, measured = [], []

    def counted(*args: Any, **kwargs: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            found = example_differences(*args, **kwargs)
        spent.append(counter.get_total_flops())
        measured.append(int((found[1] > 0).sum()))
        return found

    monkeypatch.setattr(steps, "example_differences", counted)
    monkeypatch.setattr(steps, "CLEAR", 20.0)
    for overhead in ("ENTRY", "LAUNCH"):  # so that what is allowed is what is counted
        monkeypatch.setattr(f"bayesprune.methods.svi.flip_costs.{overhead}", 0)
    phases = {"sample_from": 0.1, "settle_from": 0.1, "fine_tune_from": 1.0, "checks_per_epoch": 8}
    settings = Settings(schedule={**phases, "exact_share": share})
    with FlopCounterMode(display=False) as counter:
        fit(net, Batches(x, y), epochs=12, settings=settings, prune=False)
    total = counter.get_total_flops()
    assert sum(measured) > 20
    assert 0.9 * share < sum(spent) / (total - sum(spent)) <= share


def test_an_allowance_is_saved_and_spent() -> None:
    net = bayesian(branches()).eval()
    x, _ = examples(40)
    allowance = Allowance(net, 0.1)
    assert allowance.affordable(x, 40, torch.arange(4), least=40) == (0, 0)
    for _ in range(100):
        allowance.earn(40)
    number, size = allowance.affordable(x, 40, torch.arange(4), least=40)
    assert (number, size) == (4, 40)
    left = allowance.share * allowance.earned
    allowance.spend(40, torch.ones(4, dtype=torch.bool), torch.full((4,), 40))
    assert 0 < allowance.spent < left and allowance.fill == 1
    again = Allowance(net, 0.1)
    again.load(allowance.state())
    assert again.state() == allowance.state()
    while allowance.affordable(x, 40, torch.arange(4), least=40)[0] == 4:
        allowance.spend(40, torch.ones(4, dtype=torch.bool), torch.full((4,), 40))
    assert left * 0.5 < allowance.spent <= left
