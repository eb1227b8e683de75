"""How many runs a comparison has, and about what they take."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from bayesprune.comparison.material import Material, example
from bayesprune.comparison.plan import Plan, Task
from bayesprune.comparison.runs import TEST, all_runs
from bayesprune.pruning import compact, cost
from bayesprune.training.records import TRAINING

WARM_UP, STEPS = 2, 5


@dataclass(frozen=True)
class Estimate:
    """What a comparison takes, if each run computes as much as it may.

    Attributes:
        tuning: Runs on held-out training data.
        test: Runs that are compared.
        macs: Multiply-adds of all.
        seconds: Of one processor, by what a few dense steps take now.

    Examples:
        >>> Estimate(tuning=8, test=12, macs=2.5e12, seconds=90.0)
        Estimate(tuning=8, test=12, macs=2500000000000.0, seconds=90.0)
    """

    tuning: int
    test: int
    macs: float
    seconds: float


def estimate(plan: Plan, material: Material) -> Estimate:
    """What a plan takes.

    Args:
        plan: The plan.
        material: Where networks and data come from.
    """
    runs = all_runs(plan)
    test = sum(run.stage == TEST for run in runs)
    costs = {task.name: _of_dense(task, material) for task in plan.tasks}
    times = [(costs[run.task.name], run.compute) for run in runs]
    macs, seconds = (sum(cost[k] * compute for cost, compute in times) for k in (0, 1))
    return Estimate(len(runs) - test, test, macs, seconds)


def _of_dense(task: Task, material: Material) -> tuple[float, float]:
    """Multiply-adds and seconds of a dense run."""
    splits = material.splits(task)
    recipe, examples = material.recipe(task, splits), len(splits.train) * task.epochs
    with torch.random.fork_rng(devices=[]):
        net = compact(material.network(task, splits).train())
        x = torch.randn(recipe.batch_size, *splits.input_shape)
    y = torch.zeros(len(x), dtype=torch.long)
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    a_step = (time.process_time() - began) / STEPS
    return TRAINING * (cost(net, example(splits)).macs or 1) * examples, a_step * examples / len(x)
