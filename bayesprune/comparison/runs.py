"""The runs of a comparison, each with a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from bayesprune.comparison.goals import DENSE, OURS, SMALL, Goal, exact
from bayesprune.comparison.plan import Plan, Task
from bayesprune.comparison.ranges import trials

TUNING, PACING, TEST = "tuning", "pacing", "test"
"""The stages: trials of options; runs for each goal that show how long it may be; what is compared."""
RETRAINED, UNTUNED = "-retrained", "-untuned"
"""What follows the name of a method where its last network is trained anew, and where it goes by its defaults."""

Found = Mapping[str, Any]
"""What was chosen of a method: the ``trial``, its ``options``, and by goal the ``epochs``; see `tuning.choose`."""


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
        epochs: Its length, at most as long as a network may be trained that is small from the start on; ``None`` for
            that, and else for that of a dense run which computes as much.

    Examples:
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
    epochs: int | None = None

    @property
    def folder(self) -> Path:
        """Where its files are, below the folder of the comparison."""
        trial = f"trial{self.trial}"
        last = {TUNING: trial, PACING: f"{trial}-{self.epochs}epochs", TEST: f"seed{self.seed}"}[self.stage]
        return Path(self.stage, self.task.name, self.method, str(self.goal), f"x{exact(self.compute)}", last)

    @property
    def trainer(self) -> str:
        """The method that trains it, whether by tuned options or not."""
        return self.method.removesuffix(UNTUNED)

    @property
    def parent(self) -> Path | None:
        """The folder of the run whose last network this one begins with; ``None`` for those that need no other."""
        if not self.method.endswith(RETRAINED):
            return None
        return Path(*(self.method.removesuffix(RETRAINED) if p == self.method else p for p in self.folder.parts))


def tuning_runs(plan: Plan, task: Task, method: str, settings: str) -> list[Run]:
    """The trials of a method: as many as each is offered, and one of a method that has nothing to tune.

    Args:
        plan: The plan.
        task: On what.
        method: Its name.
        settings: What tells the plan, its data and its networks from others.
    """
    options = trials(plan.methods[method], plan.tuning.trials, plan.tuning.seed)
    goal, seed = plan.tuning_goal(method), plan.tuning.seed
    return [Run(TUNING, task, method, goal, 1.0, seed, number, one, settings) for number, one in enumerate(options)]


def test_runs(plan: Plan, task: Task, method: str, compute: float, found: Found, settings: str) -> list[Run]:
    """The runs of a method, or of a control, that are compared.

    Args:
        plan: The plan.
        task: On what.
        method: Its name.
        compute: What each may take.
        found: How it was chosen; what ends in `RETRAINED` goes by the options of `SMALL`.
        settings: What tells that from every other choice.
    """
    return [
        Run(TEST, task, method, goal, compute, seed, *(found["trial"], found["options"], settings, length))
        for goal in plan.goals(without_suffix(method))
        for length in [found["epochs"].get(str(goal))]
        for seed in plan.seeds
    ]


def all_runs(plan: Plan) -> list[Run]:
    """About the runs that a plan has: as if each method were paced by one run for each goal, or by a trial.

    Args:
        plan: The plan.
    """
    nothing: Found = {"trial": 0, "options": {}, "epochs": {}}
    found = [run for task in plan.tasks for method in plan.methods for run in tuning_runs(plan, task, method, "")]
    tuned = {(run.task, run.method, run.goal, run.compute) for run in found}
    for task, compute, method in product(plan.tasks, plan.compute, names_of(plan)):
        tested = test_runs(plan, task, method, float(compute), nothing, "")
        found += tested
        if method.removesuffix(UNTUNED) in {*plan.methods} - {DENSE}:
            found += [
                replace(run, stage=PACING, epochs=task.epochs)
                for run in tested[:: len(plan.seeds)]
                if (task, run.trainer, run.goal, run.compute) not in tuned
            ]
    return found


def names_of(plan: Plan) -> list[str]:
    """What is compared: methods, and those of them that are run by their defaults or retrained, as controls."""
    untuned, retrained = (
        (method + UNTUNED for method in plan.untuned),
        (method + RETRAINED for method in plan.retrained),
    )
    return [*plan.methods, *untuned, *retrained]


def without_suffix(name: str) -> str:
    """The name of the method that a control was made of."""
    return name.removesuffix(UNTUNED).removesuffix(RETRAINED)


def labels(methods: Sequence[str]) -> dict[str, str]:
    """What tables call methods."""
    known = {OURS: "svi (ours)", DENSE: "dense", SMALL: "small from scratch"}
    said = {name: name.replace(RETRAINED, ", retrained").replace(UNTUNED, ", untuned") for name in methods}
    return said | {name: known[name] for name in methods if name in known}
