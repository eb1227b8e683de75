"""Checkpoints whose checksum is right and whose contents are not: one line, and nothing is changed."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bayesprune
from bayesprune.errors import CheckpointError
from bayesprune.training import Settings, fit
from bayesprune.training.checkpoint import MAGIC, read_checkpoint, write_checkpoint
from bayesprune.training.state import Checkpoint
from tests.training.test_checkpoints import QUICK, batches, build, units, verify_refused


@pytest.fixture(scope="module")
def folder_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contents")
    fit(build(units, 2.0), batches(), epochs=2, settings=Settings(schedule=QUICK), out=folder, run="mine")
    return folder


@pytest.fixture
def state(folder_once: Path) -> dict[str, Any]:
    return read_checkpoint(folder_once / "checkpoint.pt")


def with_checksum(payload: bytes) -> bytes:
    return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def compressed() -> bytes:
    """A thousand times as large when it is read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**7))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "payload",
    [b"", b"junk", b"\x80\x02junk", pickle.dumps({"epoch": 1}), pickle.dumps(print), b"PK" + bytes(100), compressed()],
)
def test_another_payload(payload: bytes, tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes(with_checksum(payload))
    with pytest.raises(CheckpointError, match="something else than tensors and plain values") as caught:
        Checkpoint.read(tmp_path / "checkpoint.pt")
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def set_at(*path: Any) -> Callable[[dict], None]:
    """What sets, or with ``...`` deletes, what is at the end of a path of keys."""
    *keys, last, value = path

    def change(state: dict) -> None:
        for key in keys:
            state = state[key]
        if value is ...:
            del state[last]
        else:
            state[last] = value

    return change


WIDE = torch.zeros(1).expand(10**10)
CONTENTS = [
    (set_at("history", ...), "history: expected a value"),
    (set_at("tensors", ...), "tensors: expected a value"),
    (set_at("history", "rows", ...), "history.rows: expected a value"),
    (set_at("epoch", 99), "epoch: expected a whole number from 1 to 2, found 99"),
    (set_at("epoch", 0), "epoch: expected a whole number from 1"),
    (set_at("epoch", "2"), "epoch: expected a whole number .* found '2'"),
    (set_at("epoch", 2.0), "epoch: expected a whole number .* found 2.0"),
    (set_at("epoch", True), "epoch: expected a whole number .* found True"),
    (set_at("epoch", 1), "step: expected 12, that of epoch 1, found 24"),
    (set_at("step", 7), "step: expected 24"),
    (set_at("history", "rows", []), "history.rows: expected 2 rows"),
    (set_at("history", "rows", 0, "loss", "low"), r"history.rows\[0\].loss: expected a number, found 'low'"),
    (set_at("history", "rows", 0, "phase", 3), r"history.rows\[0\].phase: expected a text"),
    (set_at("history", "rows", 0, "more", 3), "only the keys"),
    (set_at("history", "removals", [{}]), r"history.removals\[0\].step: expected a value"),
    (set_at("history", "thetas", "0", WIDE), "history.thetas.0: expected a tensor with memory"),
    (set_at("history", "thetas", "0", torch.ones(1, 1).expand(3, 8)), "history.thetas.0: .*memory"),
    (set_at("history", "thetas", "0", torch.ones(2, 8)), "history.thetas.0: expected 3 rows"),
    (set_at("history", "thetas", "0", torch.full((3, 8), 2.0)), "probabilities from 0 to 1"),
    (set_at("history", "thetas", "0", torch.full((3, 8), torch.nan)), "probabilities from 0 to 1"),
    (set_at("tensors", "3.weight", torch.full((3, 6), torch.nan)), "tensors.3.weight: expected finite entries"),
    (set_at("tensors", "3.weight", WIDE), "tensors.3.weight: expected a tensor with memory"),
    (set_at("origin", "0", torch.tensor([9])), "origin.0: expected ascending indices below 8"),
    (set_at("origin", "0", torch.tensor([1, 1])), "origin.0: expected ascending"),
    (set_at("origin", "0", torch.tensor([-1])), "origin.0: expected ascending"),
    (set_at("origin", "9", torch.tensor([0])), "origin.9: expected the name of a gate"),
    (set_at("origin", "0", [0, 1]), "origin.0: expected a tensor of int64"),
    (set_at("rng", []), "rng: expected a list of at least 1"),
    (set_at("branch_evaluations", -1), "branch_evaluations: expected a whole number"),
]


@pytest.mark.parametrize(("change", "says"), CONTENTS)
def test_contents_that_are_not_those_of_a_checkpoint(
    change: Callable[[dict], None], says: str, state: dict[str, Any], tmp_path: Path
):
    change(state)
    write_checkpoint(tmp_path / "checkpoint.pt", state)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt does not hold what a checkpoint does: .*{says}"):
        Checkpoint.read(tmp_path / "checkpoint.pt")


MISFITS = [
    (set_at("tensors", "3.weight", ...), "tensors: expected the names"),
    (set_at("tensors", "3.weight", torch.zeros(3, 9)), "tensors.3.weight: expected a tensor of shape"),
    (set_at("tensors", "3.weight", torch.zeros(3, 6).double()), "tensors.3.weight: expected .* float32, found"),
    (lambda state: state["tensors"]["0.theta"].fill_(2.0), "tensors.0.theta: expected probabilities"),
    (lambda state: state["origin"].update({"0": torch.arange(len(state["origin"]["0"]) + 1)}), "tensors"),
    (set_at("origin", {}), "does not fit the run .GateError."),
    (set_at("history", "thetas", {}), "origin.0: expected the name of a gate"),
    (set_at("own", "agreed", torch.zeros(99, dtype=torch.long)), r"agreed: expected \d+ counts"),
    (set_at("own", "updates", "sampled", "net_cost", torch.zeros(3).double()), "updates.sampled.net_cost: expected"),
    (set_at("own", "updates", "exact", "net_cost", ...), "updates.exact.net_cost: expected a value"),
    (set_at("own", "updates", "sampled", "steps", "many"), "updates.sampled.steps: expected a finite number"),
    (set_at("own", "updates", None), "updates: expected a table"),
    (set_at("own", "penalty", None), "penalty: expected a table"),
    (
        set_at("own", "gates_rng", "host", torch.zeros(5056, dtype=torch.uint8)),
        "gates_rng.host: expected the state",
    ),
    (set_at("own", "gates_rng", "host", torch.zeros(3, dtype=torch.uint8)), "gates_rng.host: expected the state"),
    (set_at("rng", 0, 0, torch.zeros(5056, dtype=torch.uint8)), "rng: expected the state of a generator"),
    (set_at("optimizer", "param_groups", []), "optimizer.param_groups: expected 1 groups"),
    (set_at("optimizer", "param_groups", 0, "betas", (2.0, 3.0)), "betas: expected"),
    (set_at("optimizer", "param_groups", 0, "lr", "fast"), "lr: expected a finite number"),
    (set_at("optimizer", "param_groups", 0, "params", [0]), "params: expected"),
    (set_at("optimizer", "state", 99, {}), "optimizer.state: expected a whole number"),
    (set_at("optimizer", "state", 0, "exp_avg", torch.zeros(2, 2)), r"optimizer.state\[0\].exp_avg: expected"),
    (set_at("optimizer", "state", 0, "exp_avg", WIDE), r"optimizer.state\[0\].exp_avg: .*memory"),
    (
        set_at("optimizer", "state", 0, "exp_avg", torch.zeros(())),
        r"optimizer.state\[0\].exp_avg: expected a tensor of",
    ),
    (set_at("optimizer", "state", 0, "exp_avg", None), r"optimizer.state\[0\].exp_avg: expected a tensor, found None"),
    (set_at("optimizer", "state", 0, "exp_avg_sq", ...), r"optimizer.state\[0\].exp_avg_sq: expected a tensor"),
    (set_at("optimizer", "state", 0, "step", 3), r"optimizer.state\[0\].step: expected a tensor, found 3"),
    (set_at("optimizer", "state", 0, "step", torch.zeros(2)), r"optimizer.state\[0\].step: expected a single number"),
    (set_at("model", [torch.zeros(2)]), "does not fit the run|belongs to another run"),
    (set_at("settings", []), "belongs to another run: its settings is"),
    (set_at("run", "another"), "belongs to another run: its run is 'another', here it is None"),
]


@pytest.mark.parametrize(("change", "says"), MISFITS)
def test_contents_that_do_not_fit_the_run(
    change: Callable[[dict], None], says: str, state: dict[str, Any], tmp_path: Path
):
    state["run"] = None
    change(state)
    write_checkpoint(tmp_path / "checkpoint.pt", state)
    verify_refused(tmp_path, says)


def test_a_checkpoint_belongs_to_its_run(folder_once: Path, tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes((folder_once / "checkpoint.pt").read_bytes())
    verify_refused(tmp_path, "belongs to another run: its run is 'mine', here it is None")
    history = fit(build(units, 2.0), batches(), epochs=2, settings=Settings(schedule=QUICK), out=tmp_path, run="mine")
    assert len(history.rows) == 2


OLDER = {"bayesprune": "0.0.9", "torch": "2.1.0"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_at("tensors", "3.weight", torch.zeros(3, 9)), r"tensors.3.weight: expected .*; it was written by"),
        (set_at("origin", {}), r"does not fit the run \(GateError; it was written by"),
        (set_at("rng", []), r"rng: expected a list of at least 1 .*; it was written by"),
    ],
)
def test_what_cannot_be_taken_up_names_the_versions_that_wrote_it(
    change: Callable[[dict], None], says: str, state: dict[str, Any], tmp_path: Path
):
    """Those of bayesprune and torch, if they are others than now."""
    assert state["versions"] == {"bayesprune": bayesprune.__version__, "torch": torch.__version__}
    state |= {"run": None, "versions": OLDER}
    change(state)
    write_checkpoint(tmp_path / "checkpoint.pt", state)
    here = {"bayesprune": bayesprune.__version__, "torch": str(torch.__version__)}
    verify_refused(tmp_path, f"{says} {re.escape(str(OLDER))}, here are {re.escape(str(here))}")


def test_versions_alone_refuse_nothing(state: dict[str, Any], tmp_path: Path):
    write_checkpoint(tmp_path / "checkpoint.pt", state | {"versions": OLDER})
    history = fit(build(units, 2.0), batches(), epochs=2, settings=Settings(schedule=QUICK), out=tmp_path, run="mine")
    assert len(history.rows) == 2
