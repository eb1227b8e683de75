"""Files that are not what they should be, and places that cannot be written to: one line, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bayesprune.cli.config import resolve
from bayesprune.cli.record import LARGEST
from bayesprune.cli.run import prepare
from tests.cli.verify import TINY, listing, verify_refused

LONG = "n" * 300


def options(**changes: object) -> Callable[[dict], None]:
    return lambda record: record["options"].update(changes)


def without(key: str) -> Callable[[dict], None]:
    return lambda record: record.pop(key)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (options(epochs="6"), ("options.epochs: expected a whole number", "found '6'")),
        (options(epochs=6.5), ("options.epochs: expected a whole number", "found 6.5")),
        (options(epochs=True), ("options.epochs", "found True")),
        (options(epochs=None), ("options.epochs", "found None")),
        (options(epochs=0), ("--epochs must be a whole number, from 1 to 2147483647, got 0",)),
        (options(epochs=10**15), ("--epochs must be a whole number, from 1 to 2147483647, got 1000",)),
        (options(seed=10**23), ("options.seed: expected a whole number", "found 1000")),
        (options(seed=2**63), ("--seed must be a whole number, from 0 to 9223372036854775807",)),
        (options(lr="fast"), ("options.lr: expected a number", "'fast'")),
        (options(lr=10**400), ("options.lr: expected a number", "found 1000")),
        (options(net=3), ("options.net: expected a text, found 3",)),
        (options(net=[["lenet300"]]), ("options.net: expected a text",)),
        (options(compile="no"), ("options.compile: expected true or false",)),
        (options(limit="all"), ("options.limit: expected a whole number",)),
        (options(colour="red"), ("only the keys", "'colour'")),
        (options(slab="brick"), ("--slab brick: unknown",)),
        (without("options"), ("options: expected a value",)),
        (without("input_shape"), ("input_shape: expected a value",)),
        (lambda record: record.update(input_shape=[]), ("input_shape: expected a list",)),
        (lambda record: record.update(input_shape=[1, 8.0]), ("input_shape[1]: expected a whole number",)),
        (lambda record: record.update(input_shape=[0]), ("input_shape[0]: expected a whole number from 1",)),
        (lambda record: record.update(input_shape=[2**20, 2**20]), ("numbers an example",)),
        (lambda record: record.update(run=7), ("run: expected a text",)),
    ],
)
def test_a_config_of_wrong_values_is_refused(finished: Path, change: Callable[[dict], None], says: tuple[str, ...]):
    config = finished / "config.json"
    record = json.loads(config.read_text())
    change(record)
    config.write_text(json.dumps(record))
    for command in (("train", "--resume", finished), ("evaluate", finished)):
        verify_refused(*command, says=(str(config), "is damaged", *says))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b"9" * 5_000, "4300 digits"),
        (b'{"options": NaN}', "finite numbers, found 'NaN'"),
        (b'{"options": {"lr": -Infinity}}', "finite numbers, found '-Infinity'"),
        (b"null", "a table with the keys options, input_shape"),
        (b" " * (LARGEST + 1), "bytes"),
    ],
)
def test_a_config_that_is_no_record_is_refused(finished: Path, content: bytes, says: str):
    (finished / "config.json").write_bytes(content)
    verify_refused("evaluate", finished, says=("config.json is damaged", says))


def test_infinities_in_a_config_are_refused(finished: Path):
    config = finished / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"lr": 0.02', '"lr": 1e999'))
    verify_refused("evaluate", finished, says=("config.json is damaged", "--lr must be positive and finite, got inf"))
    shape = json.dumps(json.loads(text)["input_shape"], indent=2).replace("\n", "\n  ")
    config.write_text(text.replace(shape, "[1e999]"))
    verify_refused("evaluate", finished, says=("config.json is damaged", "input_shape[0]: expected a whole", "inf"))


@pytest.mark.parametrize("seed", ["12345678901234567890123", str(2**63)])
def test_a_seed_of_too_many_bits_is_refused(seed: str, tmp_path: Path):
    verify_refused(
        "train", "--seed", seed, "--out", tmp_path / "run", says=("--seed must be a whole number, from 0", "63 bits")
    )
    assert listing(tmp_path) == []


def test_the_largest_seed_is_taken():
    ready = prepare(resolve({"seed": 2**63 - 1, "limit": 64}))
    assert len(next(iter(ready.train_loader))[0]) == 64


@pytest.mark.parametrize(("option", "value"), [("--epochs", 10**30), ("--batch-size", 2**31), ("--every", 10**400)])
def test_counts_that_are_too_large_are_refused(option: str, value: int, tmp_path: Path):
    verify_refused(
        "train",
        option,
        str(value),
        "--out",
        tmp_path / "run",
        says=(f"{option} must be a whole number, from 1 to 2147",),
    )


def test_a_depth_that_cannot_be_built_is_refused(tmp_path: Path):
    for digits in (5, 5_000):
        name = "resmlp" + "9" * digits
        verify_refused("train", "--net", name, "--out", tmp_path / "run", says=("a depth of at most 9999",))


def test_names_that_are_too_long_are_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    for command in (
        ("train", *TINY, "--out", LONG),
        ("train", *TINY, "--out", f"deep/{LONG}"),
        ("train", "--resume", LONG),
        ("train", "--data", "mnist", "--data-dir", LONG),
        ("train", "--data", f"imagefolder:{LONG}"),
        ("inspect", LONG),
        ("evaluate", LONG),
        ("export", finished, "--format", "safetensors", "--out", LONG),
        ("export", finished, "--format", "torch", "--out", f"{LONG}.pt2"),
    ):
        verify_refused(*command, says=("File name too long",))
    assert listing(tmp_path) == before
