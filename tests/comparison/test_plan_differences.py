"""In what two plans differ, in the words of the refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bayesprune.comparison import Plan

GIVEN: dict[str, Any] = {
    "title": "a",
    "seeds": [1],
    "macs": [0.5],
    "compute": [1],
    "tuning": {"trials": 1, "seed": 2},
    "tasks": [{"net": "lenet300", "data": data, "epochs": 2} for data in ("digits", "mnist")],
    "methods": {"none": {}, "l1_filters": {"layerwise": [False, True]}},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"title": "b", "macs": [0.5, 0.1]}, ["macs: 0.5, 0.1 there, 0.5 here", "title: b there, a here"]),
        ({"tasks": GIVEN["tasks"][:1]}, ["tasks: lenet300-digits there, lenet300-digits, lenet300-mnist here"]),
        (
            {"tasks": [GIVEN["tasks"][0], GIVEN["tasks"][1] | {"epochs": 3, "limit": 60}]},
            ["tasks.lenet300-mnist.epochs: 3 there, 2 here", "tasks.lenet300-mnist.limit: 60 there, None here"],
        ),
        (
            {"tasks": GIVEN["tasks"][::-1]},
            ["tasks: lenet300-mnist, lenet300-digits there, lenet300-digits, lenet300-mnist here"],
        ),
        ({"methods": {"none": {}}}, ["methods: none there, l1_filters, none here"]),
        (
            {"methods": {"none": {}, "l1_filters": {"layerwise": [True]}}},
            ["methods.l1_filters.layerwise.values: True there, False, True here"],
        ),
        ({"tuning": {"trials": 4, "seed": 2}}, ["tuning.trials: 4 there, 1 here"]),
        ({"seeds": list(range(100, 200))}, [f"seeds: {', '.join(map(str, range(100, 120)))}, ... there, 1 here"]),
    ],
)
def test_settings_are_named_with_both_values(change: dict[str, Any], said: list[str]) -> None:
    assert Plan.read(GIVEN).differences(Plan.read(GIVEN | change).text()) == said


def test_a_setting_that_the_other_plan_has_not_differs() -> None:
    given = json.loads(Plan.read(GIVEN).text())
    del given["untuned"]
    assert Plan.read(GIVEN).differences(json.dumps(given)) == ["untuned: None there, none here"]
