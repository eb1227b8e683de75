"""The laws that every method keeps: of its steps, of what it removes, and of runs that are broken off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.errors import ConfigError
from bayesprune.layers import gates_of
from bayesprune.methods import NAMES
from bayesprune.optim.rates import learning_rate, warmup_steps
from bayesprune.pruning import compact
from bayesprune.training import EpochRow, Settings, fit
from bayesprune.training.trainer import Trainer
from tests.methods.toys import (
    EPOCHS,
    TOYS,
    batches,
    dropped_units,
    dropping,
    each,
    made,
    network,
    train,
)
from tests.training.problems import EXAMPLES, Batches, branches, convolutional, examples, stream, units


def test_1_doing_nothing_is_a_loop_of_plain_pytorch_to_the_bit() -> None:
    torch.manual_seed(3)
    net = dropping()
    torch.manual_seed(4)
    history = fit(net, batches(), epochs=3, method="none", settings=Settings(lr=0.02))
    torch.manual_seed(3)
    mine, loader = dropping(), batches()
    torch.manual_seed(4)
    optimizer = torch.optim.Adam(mine.parameters(), lr=0.02, fused=True)
    steps, step, losses = 3 * len(loader), 0, []
    for epoch in range(3):
        loader.set_epoch(epoch)
        total = torch.zeros(())
        for x, y in loader:
            optimizer.param_groups[0]["lr"] = 0.02 * learning_rate(step, steps, warmup_steps(steps))
            loss = F.cross_entropy(mine(x), y, reduction="none").mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(y)
            step += 1
        losses.append(float(total) / EXAMPLES)
    assert [row.nll for row in history.rows] == losses
    for value, expected in zip(net.state_dict().values(), mine.state_dict().values(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, "momentum"])
@pytest.mark.parametrize("name", each(*NAMES, "rewinding"))
def test_2_masked_entries_are_0_in_weight_gradient_and_moments(
    name: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if optimizer == "momentum":

        def optimizer(p: Any, lr: float, weight_decay: float = 1e-3) -> torch.optim.Optimizer:
            return torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=weight_decay)

    masked = 0
    step = Trainer.train_step

    def checked(run: Trainer, *args: Any) -> Tensor:
        nonlocal masked
        loss = step(run, *args)
        trained = run.trained()
        for key, mask in run.masks.items():
            weight, gone = trained[key], ~mask
            masked += int(gone.sum())
            moments = [v for v in run.optimizer.state[weight].values() if isinstance(v, Tensor) and v.dim()]
            assert all(bool((value[gone] == 0).all()) for value in (weight, weight.grad, *moments))
        return loss

    monkeypatch.setattr(Trainer, "train_step", checked)
    model, how = made(name)
    fit(model, batches(), epochs=EPOCHS, **{**how, "settings": replace(how["settings"], optimizer=optimizer)})
    does = {"magnitude": True, "rewinding": True, "none": False, "svi": False}
    assert (masked > 0) == does.get(name, masked > 0)


@pytest.mark.parametrize("make", [units, branches, stream, convolutional])
@pytest.mark.parametrize("name", each(*NAMES, "smallest", "rewinding"))
def test_3_what_is_off_can_be_cut(name: str, make: Callable[[], nn.Module]) -> None:
    x, y = examples()
    x = x[:, None] if make is convolutional else x
    if name == "smallest" and make in (branches, stream):
        pytest.skip("a branch has one gate")
    if name == "slimming" and make is not units:
        pytest.skip("its toy is another network, with normalisations")
    try:
        model, _ = train(name, make, train_loader=Batches(x, y), val_loader=None)
    except ConfigError as refusal:
        assert make is not units
        pytest.skip(str(refusal))
    model.eval()
    small = compact(model)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    if name == "smallest":
        assert [gate.size for gate in gates_of(model).values()] == ([6, 4] if make is units else [2, 3])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", each(*NAMES, *TOYS))
def test_4_a_run_that_is_taken_up_ends_as_the_unbroken_one(name: str, tmp_path: Path) -> None:
    """Broken off after every epoch; weights, masks, random numbers, phases and records included."""
    whole, expected = train(name, dropped_units, out=tmp_path / "whole")

    def stop(row: EpochRow) -> None:
        raise Stopped

    for _ in expected.rows:
        with pytest.raises(Stopped):
            train(name, dropped_units, out=tmp_path / "broken", on_epoch=stop)
        torch.rand(7)  # another process is at another place of its random numbers
    model, found = train(name, dropped_units, out=tmp_path / "broken")
    assert [str(replace(row, seconds=0.0)) for row in found.rows] == [
        str(replace(row, seconds=0.0)) for row in expected.rows
    ]
    assert str(found.removals) == str(expected.removals) and found.charged == expected.charged
    mine, theirs = network(model).state_dict(), network(whole).state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
