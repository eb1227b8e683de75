"""Checkpoints and configs that were changed at random: one line of error, or a run that ends with finite numbers."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesprune.cli.record import read_config
from bayesprune.training.checkpoint import MAGIC, read_checkpoint, write_checkpoint
from tests.cli.verify import run, start_and_stop
from tests.fuzz.limits import SECONDS, at_most

SEED = 20261130
FILES = 100
"""Changed at random of each kind: checkpoints of points and of Normal weights, and configs."""
QUICK = ("--epochs", "3", "--limit", "120", "--batch-size", "16", "--lr", "0.02", "--log-gamma", "0.2")
JUNK: list[Any] = [
    None, True, -1, 0, 1, 99, 2**70, -(10**400), 0.5, -1e300, math.nan, math.inf, "", "6", "θ", [], [[]], {}, (1, 2),
    b"x", {"a": {}}, [None] * 50,
]  # fmt: skip
TENSORS: list[Tensor] = [
    torch.zeros(0), torch.zeros(()), torch.full((4,), torch.nan), torch.tensor([10**15, -5]),
    torch.zeros(3, 3).double(), torch.zeros(1).expand(10**13), torch.zeros(2, dtype=torch.bool),
    torch.zeros(5056, dtype=torch.uint8), torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64),
]  # fmt: skip


@pytest.fixture(scope="module", params=["point", "normal"])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has an epoch to go."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    start_and_stop(*QUICK, "--slab", request.param, folder=folder, epoch=2)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "run"
    assert run("train", *QUICK, "--out", folder).exit_code == 0
    return folder


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in nested tables and lists, as container and key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def change_value(state: Any, draw: random.Random, junk: list[Any]) -> None:
    container, key = draw.choice(list(places(state)))
    container[key] = copy.deepcopy(draw.choice(junk))


def change_like(state: Any, draw: random.Random, junk: list[Any]) -> None:
    """The same type, another value: what a table of types alone would take."""
    container, key = draw.choice(list(places(state)))
    value = container[key]
    if isinstance(value, bool) or value is None:
        container[key] = not value
    elif isinstance(value, int):
        container[key] = draw.choice([value + 1, -value, value * 1000, 0])
    elif isinstance(value, float):
        container[key] = draw.choice([-value, value * 1e30, 0.0, math.nan, math.inf])
    elif isinstance(value, str):
        container[key] = draw.choice([value + "x", "", "0"])
    elif isinstance(value, Tensor):
        scaled = [value.flip(0), value * 2, -value, value[:-1]] if value.dim() else [value + 1]
        container[key] = draw.choice([*scaled, torch.zeros_like(value), value.float()]).clone()
    elif value:
        container[key] = type(value)() if not isinstance(value, list) else draw.choice([value[:-1], value * 2])


def change_key(state: Any, draw: random.Random, junk: list[Any]) -> None:
    container, key = draw.choice([(c, k) for c, k in places(state) if isinstance(c, dict)])
    value = container.pop(key)
    if draw.random() < 0.5:
        container[draw.choice(["x", 3, f"{key}x"])] = value


CHANGES: list[Callable[[Any, random.Random, list[Any]], None]] = [change_value, change_like, change_key]


def change_payload(content: bytes, draw: random.Random) -> bytes:
    """Bytes of the payload changed or cut off, with a checksum that is right again."""
    payload = bytearray(content[len(MAGIC) + 65 :])
    if draw.random() < 0.3:
        payload = payload[: draw.randrange(len(payload))]
    last = min(400, len(payload))  # where the table of what is in it stands
    for _ in range(draw.randint(1, 8) if payload else 0):
        place = draw.randrange(len(payload)) if draw.random() < 0.5 else -draw.randint(1, last)
        payload[place] = draw.randrange(256)
    return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + bytes(payload)


def verify_end(*command: str | Path) -> bool:
    """The command ends well, or with one line of error; returns whether it ended well."""
    with at_most(SECONDS):
        result = run(*command)  # raises what the command does not turn into a line
    if result.exit_code == 0:
        return True
    assert result.exit_code in (1, 2), result.output
    assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
    assert len(result.stderr.splitlines()[-1]) < 2000
    return False


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_changed_checkpoints(stopped: Path, tmp_path: Path):
    draw = random.Random(f"{SEED} {read_config(stopped).config.slab}")
    content, good = (stopped / "checkpoint.pt").read_bytes(), read_checkpoint(stopped / "checkpoint.pt")
    ended_well = 0
    for number in range(FILES):
        folder = Path(shutil.copytree(stopped, tmp_path / str(number)))
        path = folder / "checkpoint.pt"
        if number % 4 == 3:
            path.write_bytes(change_payload(content, draw))
        else:
            state = copy.deepcopy(good)
            for _ in range(draw.choice([1, 1, 1, 3])):
                CHANGES[number % 4](state, draw, [*JUNK, *TENSORS])
            write_checkpoint(path, state)
        verify_end("inspect", folder)
        if verify_end("train", "--resume", folder):
            ended_well += 1
            result = json.loads((folder / "result.json").read_text())
            assert all(math.isfinite(result[name]) for name in ("accuracy", "brier", "ece"))  # of whatever weights
        shutil.rmtree(folder)
    assert ended_well < FILES / 2  # most changes are of what can be told to be wrong


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_changed_configs(done: Path, tmp_path: Path):
    draw = random.Random(SEED)
    text = (done / "config.json").read_text()
    expected = run("evaluate", done, "--json").stdout
    for number in range(FILES):
        folder = Path(shutil.copytree(done, tmp_path / str(number)))
        if number % 4 == 3:
            cut = draw.randrange(len(text))
            changed = text[:cut] + draw.choice(["", "[" * 9_999, "9" * 5_000, "1e999", "NaN", '"', "\x00"])
            changed += text[cut + draw.randint(0, 40) :]
        else:
            record = json.loads(text)
            CHANGES[number % 4](record, draw, [value for value in JUNK if not isinstance(value, bytes)])
            changed = json.dumps(record, skipkeys=True)
        (folder / "config.json").write_text(changed)
        with at_most(SECONDS):
            result = run("evaluate", folder, "--json")
        if result.exit_code == 0:  # what was changed is not among the options, or only where the data lie
            assert result.stdout == expected
        else:
            assert verify_end("evaluate", folder) is False
        verify_end("train", "--resume", folder)
        shutil.rmtree(folder)
