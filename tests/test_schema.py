"""What a table says is taken; the first thing that is not so is said by place, expectation and finding."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from bayesprune.schema import (
    Check,
    Mismatch,
    brief,
    dataclass_record,
    items,
    number,
    optional,
    record,
    shaped,
    table,
    tensor,
    text,
    truth,
    whole,
)

INF, NAN = float("inf"), float("nan")


@dataclass
class Row:
    name: str
    count: int
    share: float
    on: bool = False
    limit: int | None = None


ROW = {"name": "a", "count": 3, "share": 0.5}
NESTED = record({"a": items(table(whole(1, 9)), 1, 2)}, {"b": text})


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (whole(1, 9), 1),
        (whole(1, 9), 9),
        (number(), -1.5),
        (number(0, 1), 1),
        (number(finite=False), NAN),
        (number(finite=False), INF),
        (optional(whole()), None),
        (text, ""),
        (truth, False),
        (NESTED, {"a": [{"x": 1}, {}]}),
        (NESTED, {"a": ({},), "b": "c", "other": object()}),
        (dataclass_record(Row), ROW),
        (dataclass_record(Row), {**ROW, "on": True, "limit": 4}),
        (tensor((torch.long,), 1), torch.zeros(0, dtype=torch.long)),
        (tensor(), torch.zeros(3, 4).T),
        (shaped({"w": torch.zeros(2, 3)}), {"w": torch.ones(2, 3)}),
    ],
)
def test_taken(check: Check, value: object):
    check(value, "")


@pytest.mark.parametrize(
    ("check", "value", "says"),
    [
        (whole(1, 9), 0, "the whole: expected a whole number from 1 to 9, found 0"),
        (whole(1, 9), 10, "found 10"),
        (whole(), True, "a whole number from 0 to .* found True"),
        (whole(), 1.0, "found 1.0"),
        (whole(), "6", "found '6'"),
        (number(), NAN, "a finite number, found nan"),
        (number(), INF, "found inf"),
        (number(0, 1), 1.5, "a finite number from 0 to 1, found 1.5"),
        (number(finite=False), 10**400, "a number, found 1000"),
        (number(), False, "found False"),
        (number(), 10**400, "found 1000"),
        (text, 3, "a text, found 3"),
        (truth, 1, "true or false, found 1"),
        (NESTED, [], r"a table with the keys a, found \[\]"),
        (NESTED, {}, "a: expected a value, found None"),
        (NESTED, {"a": []}, r"a: expected a list of 1 to 2 values, found \[\]"),
        (NESTED, {"a": [{}, {}, {}]}, "a list of 1 to 2 values"),
        (NESTED, {"a": [{"x": 0}]}, r"a\[0\]\.x: expected a whole number from 1 to 9, found 0"),
        (NESTED, {"a": [{3: 1}]}, r"a\[0\]: expected a table, found \{3: 1\}"),
        (NESTED, {"a": [{}], "b": None}, "b: expected a text, found None"),
        (dataclass_record(Row), {"name": "a"}, "count: expected a value"),
        (dataclass_record(Row), {**ROW, "share": "x"}, "share: expected a number, found 'x'"),
        (dataclass_record(Row), {**ROW, "x": 1}, "only the keys name, count, share, on, limit, found 'x'"),
        (tensor((torch.long,), 1), torch.zeros(2), "a tensor of int64 with 1 dimensions, found a tensor of shape"),
        (tensor(dim=1), torch.zeros(2, 2), r"found a tensor of shape \(2, 2\) and type float32"),
        (tensor(), [1.0], r"a tensor, found \[1.0\]"),
        (tensor(), torch.zeros(1).expand(10**12), "memory for each of its entries"),
        (tensor(finite=True), torch.tensor([0.0, INF]), "finite entries"),
        (tensor(), torch.zeros(3).to_sparse(), "a dense tensor on the CPU"),
        (tensor(), torch.zeros(3, device="meta"), "a dense tensor on the CPU"),
        (shaped({"w": torch.zeros(2)}), {"w": torch.zeros(3)}, r"w: expected a tensor of shape \(2,\)"),
        (shaped({"w": torch.zeros(2)}), {}, r"the names \['w'\], found \[\]"),
    ],
)
def test_refused(check: Check, value: object, says: str):
    with pytest.raises(Mismatch, match=says):
        check(value, "")


def test_a_message_is_short_whatever_is_found():
    deep: list = []
    for _ in range(100):
        deep = [deep, deep]  # 2^100 lists if all are followed
    for value in (deep, "x" * 10**6, list(range(10**6)), 10**4000):
        assert len(brief(value)) < 700
