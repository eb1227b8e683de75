"""Where the time of a self-pruned run goes, by a clock at the doors of the library's rooms.

The functions and methods in `DOORS` are wrapped for the length of one run, in which nothing else is changed; the run's
own time is that of another run, without clocks. A clock counts processor time for the innermost part that is entered,
so parts add up to the whole, and what is behind no door is the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from statistics import mean
from typing import Any
from unittest.mock import patch

from clock import REST, Clock, Way, backward, called, iterated, made, timed, watched

DOORS: dict[str, list[tuple[str, Way]]] = {
    "loader": [
        ("bayesprune.data.batches:EpochLoader.__iter__", iterated),
        ("bayesprune.training.reader:Reader.__call__", called),
    ],
    "forward": [
        ("bayesprune.infer.gated:GatedNet.forward", called),
        ("bayesprune.infer.evaluation:BatchObjective.__call__", called),
        ("bayesprune.methods.svi.method:losses", called),
    ],
    "multiplications, forward": [("bayesprune.layers.gate:Gate.scale", called)],
    "backward": [("bayesprune.training.engine:Engine.backward", backward)],
    "optimiser": [("torch.optim:Optimizer.step", called), ("torch.optim:Optimizer.zero_grad", called)],
    "draws": [
        (f"bayesprune.infer.sampler:GateSampler.{name}", called) for name in ("__call__", "refresh", "synchronize")
    ],
    "estimator": [
        ("bayesprune.methods.svi.method:get_estimator", made),
        ("bayesprune.methods.svi.settling:Settling.watched", watched),
        ("bayesprune.methods.svi.sampled:SampledSteps.step", called),
        ("bayesprune.methods.svi.exact:ExactSteps.step", called),
    ],
    "further passes": [
        (f"bayesprune.infer.evaluation:ReplayedObjective.{name}", called) for name in ("again", "flipped")
    ],
    "differences": [
        ("bayesprune.methods.svi.settling:Settling.gather", called),
        ("bayesprune.methods.svi.allowance:Allowance.earn", called),
        ("bayesprune.methods.svi.sampled:SampledSteps.add_shared_differences", called),
    ],
    "prices": [
        (f"bayesprune.methods.svi.penalties.base:Penalty.{name}", called) for name in ("update", "rebuild", "enforce")
    ],
    "surgery": [
        *((f"bayesprune.methods.svi.removal:GateRemoval.{name}", called) for name in ("check", "clear", "rest")),
        ("bayesprune.training.trainer:Trainer.remove", called),
        ("bayesprune.training.trainer:Trainer.follow", called),
        ("bayesprune.pruning:compact", called),
        ("bayesprune:compact", called),
    ],
    REST: [("bayesprune.training.trainer:Trainer.run_epoch", timed)],
    "scoring": [("bayesprune.training.trainer:evaluate", called)],
    "records": [
        *((f"bayesprune.training.records:Records.{name}", called) for name in ("add", "charge_open", "remember")),
        ("bayesprune.training.loop:undone_if_broken_off", called),
        ("bayesprune.infer.model:GatedModel.snapshot", called),
    ],
    "setting up": [
        ("bayesprune.training.trainer:Trainer.__init__", called),
        ("bayesprune.infer.net:BayesianNet.__init__", called),
    ],
}
"""By part, where it is entered, and how that is counted."""


def places(target: str) -> list[tuple[Any, str]]:
    """Where the function ``MODULE:NAME`` or the method ``MODULE:CLASS.NAME`` is defined, subclasses included.

    Raises:
        AttributeError: if there is none, because it was renamed.
    """
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner: Any = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    getattr(owner, name)
    return [(owner, name), *((below, name) for below in _below(owner) if name in vars(below))]


def _below(owner: Any) -> list[type]:
    """All subclasses of a class."""
    found = owner.__subclasses__() if isinstance(owner, type) else []
    return [*found, *(lower for one in found for lower in _below(one))]


@contextmanager
def clocks() -> Iterator[Clock]:
    """Count, within the context, what is behind every door."""
    clock = Clock()
    with ExitStack() as stack:
        for part, doors in DOORS.items():
            for target, way in doors:
                for owner, name in places(target):
                    stack.enter_context(patch.object(owner, name, way(clock, part, getattr(owner, name))))
        clock.start()
        yield clock
        clock.turn()


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a run went.

    Attributes:
        seconds: Processor time by part, the rest included.
        clocks: What the clocks themselves took of it, about.
        epochs: The phase of every epoch, and its processor time.
    """

    seconds: dict[str, float]
    clocks: float
    epochs: list[tuple[str, float]]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.seconds.values())

    def by_phase(self) -> dict[str, tuple[int, float]]:
        """By phase, the number of its epochs and their mean time."""
        found: dict[str, list[float]] = {}
        for phase, seconds in self.epochs:
            found.setdefault(phase, []).append(seconds)
        return {phase: (len(ones), mean(ones)) for phase, ones in found.items()}

    def share(self, part: str) -> float:
        """What part of all that is, 0 to 1."""
        return self.seconds.get(part, 0.0) / self.total


def breakdown(run: Callable[[], object]) -> Breakdown:
    """Where the time of ``run()`` goes."""
    with clocks() as clock:
        run()
    parts = ["forward", "multiplications, forward", "backward", "backward, θ too", "optimiser", *DOORS]
    seconds = {part: clock.seconds[part] for part in dict.fromkeys([*parts, REST])}
    return Breakdown(seconds, sum(clock.entered.values()) * _an_entry(), clock.epochs)


def _an_entry(count: int = 1000) -> float:
    """Seconds that one entry of a clock takes."""
    nothing = called(Clock(), REST, lambda: None)
    began = time.process_time()
    for _ in range(count):
        nothing()
    return (time.process_time() - began) / count
