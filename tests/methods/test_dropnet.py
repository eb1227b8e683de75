"""dropnet: which units go, when, and with what the rest goes on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Linear
from bayesprune.methods.dropnet import DropNet
from bayesprune.training import Settings, fit
from bayesprune.training.trainer import Trainer
from tests.methods.toys import batches
from tests.training.problems import Batches, branches, units


def test_units_go_by_their_mean_activation() -> None:
    """One input at a time is on, the weights are diagonal: of unit i the score is w_i/n, and a dead unit goes first."""
    weights = [0.9, 0.3, 0.0, 0.5, 0.7]
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), Gate(5), nn.Linear(5, 2))
    net[0].weight.data = torch.diag(torch.tensor(weights))
    loader = Batches(torch.eye(5), torch.zeros(5, dtype=torch.long), 5)
    history = fit(net, loader, epochs=4, method=DropNet(share=0.2, cycles=4), settings=Settings(lr=1e-12))
    assert [(r.gate, r.index) for r in history.removals] == [("2", 2), ("2", 1), ("2", 3)]
    assert [row.phase for row in history.rows] == ["cycle 1", "cycle 2", "cycle 3", "cycle 4"]
    macs = [5 * w + 2 * w for w in (5, 4, 3, 2)]
    assert [row.macs for row in history.rows] == [*macs[1:], macs[-1]]
    assert history.charged == sum(3 * 5 * m for m in macs) + sum(5 * m for m in macs[:-1])


def test_every_cycle_begins_with_the_initial_weights_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), Gate(6), nn.Linear(6, 2))
    initial, begin, seen = net[0].weight.detach().clone(), Trainer._begin_phase, []

    def spied(run: Trainer) -> None:
        begin(run)
        if run.epoch:
            left = run.origin["2"]
            seen.append(len(left))
            assert torch.equal(net[0].weight, initial[left]) and len(run.optimizer.state) == 0

    monkeypatch.setattr(Trainer, "_begin_phase", spied)
    fit(net, batches(), epochs=6, method=DropNet(share=0.4, cycles=6), settings=Settings(lr=0.02))
    assert seen == [4, 3, 2, 1, 1]  # of 6: 2.4, 1.6, 1.2, 0.8 and none


def test_what_is_off_but_not_removed_counts_as_gone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), Gate(6), nn.Linear(6, 2))
    fit(net, batches(), epochs=3, prune=False, method=DropNet(share=0.4), settings=Settings(lr=0.02))
    assert int((net[2].theta == 0).sum()) == 3


def test_branches_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(branches(), Linear(2, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 2))
    history = fit(net, batches(), epochs=2, method=DropNet(share=0.5, cycles=2), settings=Settings(lr=0.02))
    assert len(history.removals) == 3 and {r.gate for r in history.removals} == {"1"}


def test_a_run_in_which_nothing_could_go_is_refused() -> None:
    with pytest.raises(ConfigError, match="dropnet: no gate holds several units"):
        fit(branches(), batches(), epochs=2, method="dropnet")
    for method in ("dropnet", "lottery"):
        with pytest.raises(ConfigError, match=r"with cycles=1[02] and epochs=1 there is one cycle"):
            fit(units(), batches(), epochs=1, method=method)


@pytest.mark.parametrize("how", [{"share": 1.0}, {"cycles": 0}])
def test_bad_settings(how: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="dropnet: "):
        DropNet(**how)  # type: ignore[arg-type]
