"""Clocks that count processor time by the part of a program that is running, and how functions are wrapped by them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

REST = "rest"
CLOSED = ("setting up", "further passes", "differences", "prices", "surgery", "scoring", "records")
"""Parts within which no other is counted."""


class Clock:
    """Processor time by part, how often each was entered, and of every epoch its phase and processor time."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, float]] = []
        self.seconds: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()
        self.moved = False
        self._open = [REST]
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._last = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done in the context for a part."""
        self.turn()
        self._open.append(self._open[-1] if self._open[-1] in CLOSED else name)
        self.entered[self._open[-1]] += 1
        try:
            yield
        finally:
            self.turn()
            self._open.pop()

    def turn(self) -> None:
        """Count what has gone by since the last turn for the part that is open."""
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._last
        self._last = now


Way = Callable[[Clock, str, Callable[..., Any]], Callable[..., Any]]
"""How a function is wrapped: (clock, part, function) → function."""


def called(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count its calls."""

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with clock.part(part):
            return function(*args, **kwargs)

    return counted


def made(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count the calls of the estimator that it makes; what goes backward after one is the derivative of θ, too."""

    @wraps(function)
    def making(*args: Any, **kwargs: Any) -> Any:
        made_ = called(clock, part, function(*args, **kwargs))

        def noted(*given: Any) -> Any:
            clock.moved = True
            return made_(*given)

        return noted

    return making


def watched(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count its calls; where the gates that it gives want derivatives, what goes backward next is these, too."""

    @wraps(function)
    def counted(*args: Any) -> Any:
        with clock.part(part):
            gates = function(*args)
        clock.moved = clock.moved or gates.xi.requires_grad
        return gates

    return counted


def backward(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count its calls, those that go on to the gates apart."""

    @wraps(function)
    def counted(*args: Any) -> Any:
        moved, clock.moved = clock.moved, False
        with clock.part(f"{part}, θ too" if moved else part):
            return function(*args)

    return counted


def iterated(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count what the iterator that it makes takes for each of its items."""

    @wraps(function)
    def iterating(*args: Any) -> Iterator[Any]:
        with clock.part(part):
            items = function(*args)
        while True:
            with clock.part(part):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    return iterating


def timed(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Note the time and the phase of the epoch that each call is."""

    @wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        row = function(*args, **kwargs)
        clock.epochs.append((row.phase, time.process_time() - began))
        return row

    return noted
