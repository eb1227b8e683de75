"""Clocks at the doors of the library: what each part of a run takes, by the innermost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bayesprune.layers import Gate


@pytest.fixture
def seconds(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A processor clock that goes on by one second at every look."""
    looks = [0.0]

    def look() -> float:
        looks.append(looks[-1] + 1)
        return looks[-1]

    with monkeypatch.context() as patched:
        patched.setattr(time, "process_time", look)
        yield looks


def test_a_clock_counts_the_innermost_part(bench: Any, seconds: list[float]) -> None:
    clock = bench.clock.Clock()  # at 1
    with clock.part("forward"):  # at 2
        with clock.part("draws"):  # at 3, left at 4
            pass
        with clock.part("draws"):  # at 5, left at 6
            pass
    # left at 7
    assert clock.seconds == {"rest": 1, "forward": 1 + 1 + 1, "draws": 2}
    assert clock.entered == {"forward": 1, "draws": 2}


def test_within_a_closed_part_nothing_else_is_counted(bench: Any, seconds: list[float]) -> None:
    clock = bench.clock.Clock()
    with clock.part("differences"), clock.part("draws"), clock.part("forward"):
        pass
    assert clock.seconds == {"rest": 1, "differences": 5}


def test_what_goes_backward_to_the_gates_is_counted_apart(bench: Any) -> None:
    clock = bench.clock.Clock()
    estimator = bench.clock.made(clock, "estimator", lambda name: lambda *given: (name, given))("auto")
    back = bench.clock.backward(clock, "backward", lambda: None)
    back()
    assert estimator(1, 2) == ("auto", (1, 2))
    back()
    back()
    assert clock.entered == {"backward": 2, "estimator": 1, "backward, θ too": 1}
    watched = bench.clock.watched(clock, "estimator", lambda xi: SimpleNamespace(xi=xi))
    for gates in (torch.ones(1), torch.ones(1, requires_grad=True)):
        assert watched(gates).xi is gates
        back()
    assert clock.entered == {"backward": 3, "estimator": 3, "backward, θ too": 2}


def test_an_iterator_is_counted_item_by_item(bench: Any) -> None:
    clock = bench.clock.Clock()
    items = bench.clock.iterated(clock, "loader", iter)
    assert list(items([1, 2])) == [1, 2]
    assert clock.entered == {"loader": 1 + 3}  # made, two items, and the end


def test_every_door_is_there_and_shut_again(bench: Any) -> None:
    """A door that was renamed is named here, not counted among the rest."""
    found = [
        place
        for doors in bench.breakdown.DOORS.values()
        for target, _ in doors
        for place in bench.breakdown.places(target)
    ]
    before = [getattr(owner, name) for owner, name in found]
    scale = Gate.scale
    with bench.breakdown.clocks():
        assert Gate.scale is not scale
        assert all(getattr(owner, name) != was for (owner, name), was in zip(found, before, strict=True))
    assert [getattr(owner, name) for owner, name in found] == before and Gate.scale is scale
    with pytest.raises(AttributeError, match="halve"):
        bench.breakdown.places("bayesprune.layers.gate:Gate.halve")
