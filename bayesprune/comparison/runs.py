"""The runs of a comparison, each with a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from bayesprune.comparison.goals import DENSE, OURS, SMALL, Goal, exact
from bayesprune.comparison.plan import Plan, Task
from bayesprune.comparison.ranges import trials

TUNING, PACING, TEST = "tuning", "pacing", "test"
"""The stages: trials of options; a run for each goal that shows what it takes to compute; what is compared."""
RETRAINED = "-retrained"
"""What follows the name of a method where its last network is trained from fresh weights."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        stage: ``"tuning"``, ``"pacing"`` or ``"test"``.
        task: On what.
        method: By what; its name, or that of a control.
        goal: What is to be left.
        compute: What it may take to compute, in units of a dense run.
        seed: Of initial weights, order and augmentation.
        trial: Which trial of its options it is, from 0; of the test stage the one that was chosen.
        options: What it is trained with besides the defaults.
        settings: What tells how it came to its options from every other way.
        pace: What such a run computes, in units of a dense run of as many epochs.

    Example:
        >>> run = Run("test", Task("lenet300", "digits", 20), "magnitude", Goal("weights", 0.1), 1.0, seed=3)
        >>> run.folder.as_posix()
        'test/lenet300-digits/magnitude/weights=0.1/x1/seed3'
    """

    stage: str
    task: Task
    method: str
    goal: Goal
    compute: float
    seed: int
    trial: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""
    pace: float = 1.0

    @property
    def folder(self) -> Path:
        """Where its files are, below the folder of the comparison."""
        last = f"trial{self.trial}" if self.stage == TUNING else f"seed{self.seed}"
        return Path(self.stage, self.task.name, self.method, str(self.goal), f"x{exact(self.compute)}", last)

    @property
    def parent(self) -> Path | None:
        """The folder of the run whose last network this one begins with; ``None`` for those that need no other."""
        if not self.method.endswith(RETRAINED):
            return None
        return Path(*(self.method.removesuffix(RETRAINED) if p == self.method else p for p in self.folder.parts))


def tuning_runs(plan: Plan, settings: str) -> list[Run]:
    """The trials of each task and method, equally many.

    Args:
        plan: The plan.
        settings: What tells it, its data and its networks from others.
    """
    return [
        Run(TUNING, task, method, plan.tuning_goal(method), 1.0, plan.tuning.seed, number, options, settings)
        for task in plan.tasks
        for method, ranges in plan.methods.items()
        for number, options in enumerate(trials(ranges, plan.tuning.trials, plan.tuning.seed))
    ]


Chosen = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By task and method, the ``trial`` that was chosen, its ``options``, and by goal the ``pace``."""


def pacing_runs(plan: Plan, chosen: Chosen, settings: str) -> list[Run]:
    """A run of each task, method and goal, as it was chosen; how much a dense or narrow network computes is known.

    Args:
        plan: The plan.
        chosen: How each method is trained.
        settings: As for `tuning_runs`.
    """
    return [
        Run(PACING, task, method, goal, 1.0, plan.tuning.seed, found["trial"], found["options"], settings)
        for task in plan.tasks
        for method, found in chosen[task.name].items()
        if method not in (DENSE, SMALL)
        for goal in plan.goals(method)
    ]


def test_runs(plan: Plan, chosen: Chosen, settings: str) -> list[Run]:
    """The runs that are compared, those first that need no other.

    Args:
        plan: The plan.
        chosen: How each method is trained.
        settings: What tells that from every other choice.
    """

    def run(task: Task, method: str, by: str, goal: Goal, compute: float, seed: int) -> Run:
        found = chosen[task.name][by]
        pace = found["pace"].get(str(goal), 1.0)
        return Run(TEST, task, method, goal, compute, seed, found["trial"], found["options"], settings, pace)

    def every(method: str, by: str, name: str) -> list[Run]:
        cells = product(plan.tasks, plan.compute, plan.goals(method), plan.seeds)
        return [run(task, name, by, goal, compute, seed) for task, compute, goal, seed in cells]

    first = [one for method in plan.methods for one in every(method, method, method)]
    return first + [one for method in plan.retrained for one in every(method, SMALL, method + RETRAINED)]


def labels(methods: Sequence[str]) -> dict[str, str]:
    """What tables call methods."""
    known = {OURS: "svi (ours)", DENSE: "dense", SMALL: "small from scratch"}
    return {name: known.get(name, name.replace(RETRAINED, ", retrained")) for name in methods}
