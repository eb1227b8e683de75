"""A run that is taken up from its checkpoint ends as one that was never stopped; a damaged one is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bayesprune.atomic import write_atomically
from bayesprune.errors import CheckpointError
from bayesprune.infer import BayesianNet
from bayesprune.pruning import CostPrice
from bayesprune.training import EpochRow, History, Settings, fit
from bayesprune.training.checkpoint import MAGIC, read_checkpoint, write_checkpoint
from bayesprune.types import Removal
from tests.training.problems import Batches, bayesian, branches, convolutional, examples, shuffled, stream, units

EPOCHS = 6
QUICK = {
    "sample_from": 0.05, "settle_from": 0.4, "fine_tune_from": 0.75, "travel": 1.5, "checks_per_epoch": 3,
}  # fmt: skip


class Stopped(Exception):
    pass


def stop_after(epoch: int):
    def on_epoch(row: EpochRow) -> None:
        if row.epoch == epoch:
            raise Stopped

    return on_epoch


def build(make, log_gamma: float) -> BayesianNet:
    torch.manual_seed(8)
    net = bayesian(make(), log_gamma)
    with torch.no_grad():
        net.theta.copy_(torch.linspace(0.05, 0.95, net.num_gates))
    return net


def verify_resumed(make, loader, log_gamma: float, folder: Path, stops: list[int], **settings: object) -> History:
    """Interrupted after each of these epochs, each time taken up by a new network: exactly the unbroken run's end."""
    how = Settings(lr=0.02, every=1, schedule=QUICK, **settings)  # type: ignore[arg-type]
    whole = build(make, log_gamma)
    expected = fit(whole, loader(), epochs=EPOCHS, val_loader=validation(make), settings=how, out=folder / "whole")
    for epoch in stops:
        with pytest.raises(Stopped):
            fit(
                build(make, log_gamma), loader(), epochs=EPOCHS, val_loader=validation(make), settings=how,
                out=folder / "broken", on_epoch=stop_after(epoch),
            )  # fmt: skip
        torch.rand(epoch)  # another process is at another place of its random numbers
    net = build(make, log_gamma)
    found = fit(net, loader(), epochs=EPOCHS, val_loader=validation(make), settings=how, out=folder / "broken")
    assert [replace(row, seconds=0.0) for row in found.rows] == [replace(row, seconds=0.0) for row in expected.rows]
    assert found.removals == expected.removals
    assert found.thetas.keys() == expected.thetas.keys()
    for name, path in expected.thetas.items():
        assert torch.equal(torch.stack(found.thetas[name]), torch.stack(path)), name
    assert str(found.branches_computed) == str(expected.branches_computed)
    mine, theirs = net.net.state_dict(), whole.net.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert torch.equal(net.log_gamma, whole.log_gamma)
    return expected


def validation(make) -> Batches:
    x, y = examples(120)
    return Batches(x[:, None] if make is convolutional else x, y, 60)


def batches() -> Batches:
    return Batches(*examples())


def image_batches() -> Batches:
    x, y = examples()
    return Batches(x[:, None], y)


CASES = [
    pytest.param(units, batches, 2.0, [1], {}, id="units, during sampling", marks=pytest.mark.slow),
    pytest.param(units, shuffled, 2.0, [4], {}, id="units, during settling, torch's loader", marks=pytest.mark.slow),
    pytest.param(units, shuffled, 2.0, [2, 3, 5], {"price": CostPrice(0.05)}, id="units, cost prices, three stops"),
    pytest.param(branches, shuffled, 2.0, [3], {}, id="branches"),
    pytest.param(
        branches, batches, 2.0, [2], {"price": CostPrice(0.05)}, id="branches, cost prices", marks=pytest.mark.slow
    ),
    pytest.param(stream, batches, 2.0, [4], {}, id="units on a stream"),
    pytest.param(convolutional, image_batches, 0.1, [4], {}, id="normalisation"),
    pytest.param(units, batches, 2.0, [3], {"optimizer": torch.optim.SGD}, id="SGD", marks=pytest.mark.slow),
]


@pytest.mark.usefixtures("free_surgery")
@pytest.mark.parametrize(("make", "loader", "log_gamma", "stops", "settings"), CASES)
def test_resumed_run_ends_as_the_unbroken_one(
    make, loader, log_gamma: float, stops: list[int], settings: dict[str, object], tmp_path: Path
) -> None:
    verify_resumed(make, loader, log_gamma, tmp_path, stops, **settings)


@pytest.mark.usefixtures("free_surgery")
def test_resumed_after_structures_were_removed(tmp_path: Path) -> None:
    """The case above proves something only if structures went before the stop, and more after it."""
    stops = [2, 3]
    history = verify_resumed(units, shuffled, 2.0, tmp_path, stops)
    steps = [removal.step for removal in history.removals]
    assert any(min(steps) <= epoch * 12 < max(steps) for epoch in stops)


def test_resumed_while_structures_wait_for_their_removal(tmp_path: Path) -> None:
    """In so short a run they do until θ comes to rest, after 54 of 72 steps; the learning rate rises again there."""
    history = verify_resumed(units, shuffled, 2.0, tmp_path, [3, 4, 5])
    assert {removal.step for removal in history.removals} == {54}


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    net = build(units, 2.0)
    how, score = Settings(schedule=QUICK), validation(units)
    history = fit(net, batches(), epochs=2, settings=how, val_loader=score, out=tmp_path)
    again, seen = build(units, 2.0), []
    second = fit(again, batches(), epochs=2, settings=how, val_loader=score, out=tmp_path, on_epoch=seen.append)
    assert seen == [] and second.rows == history.rows
    assert all(torch.equal(v, net.net.state_dict()[k]) for k, v in again.net.state_dict().items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(build(units, 2.0), batches(), epochs=2, settings=Settings(schedule=QUICK), out=folder)
    return folder / "checkpoint.pt"


def verify_refused(folder: Path, message: str, net: BayesianNet | None = None, epochs: int = 2, loader=batches) -> None:
    net = net or build(units, 2.0)
    before = copy.deepcopy(net.state_dict())
    content = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        fit(net, loader(), epochs=epochs, settings=Settings(schedule=QUICK), out=folder)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert (folder / "checkpoint.pt").read_bytes() == content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[: len(c) // 2], r"checkpoint\.pt is truncated or was altered"),
        (lambda c: c[:-1], "is truncated or was altered"),
        (lambda c: c[: len(MAGIC) + 10], "is truncated or was altered"),
        (lambda c: c[:-2000] + bytes([c[-2000] ^ 1]) + c[-1999:], "do not match its checksum"),
        (lambda c: c[: len(MAGIC)] + bytes([c[len(MAGIC)] ^ 1]) + c[len(MAGIC) + 1 :], "not match its checksum"),
        (lambda c: c[:10], "is not a checkpoint of this version of bayesprune; start the run anew"),
        (lambda c: b"", "is not a checkpoint"),
        (lambda c: bytes([c[0] ^ 1]) + c[1:], "is not a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage, message: str, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(damage(finished.read_bytes()))
    verify_refused(tmp_path, message)


def wider() -> nn.Module:
    net = units()
    net[3] = nn.Linear(6, 3)
    return net


@pytest.mark.parametrize(
    ("make", "epochs", "loader", "message"),
    [
        (branches, 2, batches, "belongs to another run: its network is"),
        (wider, 2, batches, "resume with the same network, data, settings and epochs, or start in another folder"),
        (units, 3, batches, "its epochs is 2, here it is 3"),
        (units, 2, lambda: Batches(*examples(), 48), "its steps_per_epoch is 12, here it is 10"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(make, epochs, loader, message, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(finished.read_bytes())
    verify_refused(tmp_path, message, build(make, 2.0), epochs, loader)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing"):
        read_checkpoint(tmp_path / "nothing")


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    """An object that would run code when unpickled is refused, with its checksum in order."""

    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    write_checkpoint(tmp_path / "checkpoint.pt", {"network": Malicious()})
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "owned").exists()


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    state = {"a": torch.randn(3), "b": [1, "two", None], "c": {"d": 3.5}}
    write_checkpoint(tmp_path / "c.pt", state)
    found = read_checkpoint(tmp_path / "c.pt")
    assert torch.equal(found.pop("a"), state.pop("a")) and found == state
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_history_round_trip() -> None:
    row = EpochRow(1, "settle", 0.5, 0.4, float("inf"), 0.9, 7, 0.5, 100, 200, 1.5)
    history = History([row], [Removal(3, "1", 2, 0.0, 0.25, 1.5)], {"1": [torch.ones(2), torch.zeros(2)]}, 0.75)
    found = History.from_state(history.state())
    assert (found.rows, found.removals, found.branches_computed) == (history.rows, history.removals, 0.75)
    assert all(torch.equal(a, b) for a, b in zip(found.thetas["1"], history.thetas["1"], strict=True))
