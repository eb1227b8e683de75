"""When a structure may go: θ exactly 0 and data that do not want it back, several times in a row."""

from __future__ import annotations

import pytest
import torch

from bayesprune.pruning import RemovalMonitor

OFF, ON = [0.0], [0.3]
COSTS, HELPS = [0.1], [-0.1]


def looks(monitor: RemovalMonitor, *pairs: tuple[list[float], list[float]]) -> list[bool]:
    """What the monitor of one gate says at each of these (θ, net cost)."""
    return [bool(monitor.check(torch.tensor(theta), torch.tensor(net_cost))) for theta, net_cost in pairs]


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_goes_at_the_last_of_patience_consecutive_checks_and_stays_ready(patience: int) -> None:
    said = looks(RemovalMonitor(1, patience), *[(OFF, COSTS)] * (patience + 2))
    assert said == [False] * (patience - 1) + [True] * 3


@pytest.mark.parametrize(
    "interruption",
    [
        pytest.param((ON, COSTS), id="theta is positive"),
        pytest.param(([1e-30], COSTS), id="theta is tiny, not 0"),
        pytest.param((OFF, HELPS), id="the data want it back"),
        pytest.param((OFF, [0.0]), id="no evidence either way"),
        pytest.param((OFF, [float("nan")]), id="no evidence at all"),
    ],
)
def test_one_look_that_disagrees_starts_the_count_anew(interruption: tuple[list[float], list[float]]) -> None:
    agree = (OFF, COSTS)
    assert looks(RemovalMonitor(1, 2), agree, interruption, agree, agree) == [False, False, False, True]


def test_gates_are_counted_one_by_one() -> None:
    monitor = RemovalMonitor(3, 2)
    monitor.check(torch.tensor([0.0, 0.0, 0.5]), torch.tensor([1.0, -1.0, 1.0]))
    said = monitor.check(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
    assert said.tolist() == [True, False, False]
    assert monitor.agreed.tolist() == [2, 1, 1]


def test_keep_goes_on_with_the_counts_of_these_gates() -> None:
    monitor = RemovalMonitor(4, 3)
    zeros = torch.zeros(4)
    monitor.check(zeros, torch.tensor([1.0, -1.0, 1.0, -1.0]))
    monitor.check(zeros, torch.tensor([1.0, 1.0, -1.0, -1.0]))
    monitor.keep(torch.tensor([3, 0]))
    assert monitor.agreed.tolist() == [0, 2]
    assert monitor.check(torch.zeros(2), torch.ones(2)).tolist() == [False, True]


def test_reset_forgets() -> None:
    monitor = RemovalMonitor(2, 2)
    monitor.check(torch.zeros(2), torch.ones(2))
    monitor.reset()
    assert not bool(monitor.check(torch.zeros(2), torch.ones(2)).any())


def test_no_gates() -> None:
    assert RemovalMonitor(0).check(torch.zeros(0), torch.zeros(0)).shape == (0,)
