"""Which methods cannot act on a network, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprune.comparison.material import Material
from bayesprune.comparison.plan import Plan
from bayesprune.comparison.runs import Run, tuning_runs
from bayesprune.comparison.training import Begun, train
from bayesprune.errors import BayesPruneError
from bayesprune.infer import Likelihood
from bayesprune.methods import Method, get_method
from bayesprune.methods.svi.settings import Settings
from bayesprune.training import Engine, History
from bayesprune.training.batches import Loader
from bayesprune.training.choices import model_of, settings_of
from bayesprune.training.trainer import Trainer


def refusals(plan: Plan, material: Material) -> Iterator[tuple[str, str, str]]:
    """The methods that refuse to begin, by their defaults: task, method (and goal, unless it is all), reason.

    Args:
        plan: The plan.
        material: Where networks and data come from.
    """
    for task in plan.tasks:
        for method in plan.methods:
            (trial,) = tuning_runs(replace(plan, tuning=replace(plan.tuning, trials=1)), task, method, "")
            whys = {goal: _refusal(replace(trial, goal=goal), material) for goal in plan.goals(method)}
            if len(whys) > 1 and len({*whys.values()}) == 1:
                whys = {trial.goal: whys.popitem()[1]}
            yield from (
                (task.name, method if len(whys) == 1 else f"{method} {g}", why) for g, why in whys.items() if why
            )


def _refusal(run: Run, material: Material) -> str:
    """Why a run cannot begin; empty if it can.

    Args:
        run: The run.
        material: Where its network and data come from.
    """
    splits = material.splits(run.task)
    begun = Begun(
        run, material, splits, material.recipe(run.task, splits), Path(), Path(), lambda row: None, trainer=_begin
    )
    try:
        with torch.random.fork_rng(devices=[]):
            train(begun)
    except BayesPruneError as error:
        return " ".join(str(error).split())
    return ""


def _begin(
    model: nn.Module,
    loader: Loader,
    *,
    epochs: int,
    method: str | Method,
    likelihood: str | Likelihood | None = None,
    settings: Settings | None = None,
    prune: bool = True,
    **of_files: Any,
) -> History:
    """Begin as `fit` does, and take no step.

    Args:
        model: The network.
        loader: Its training batches.
        epochs: Length of the run.
        method: The method.
        likelihood: Its likelihood.
        settings: How to train.
        prune: Whether structures are removed.
        **of_files: What `fit` takes besides, which tells what is written.
    """
    method = method if isinstance(method, Method) else get_method(method)
    net = model_of(model, method, likelihood, None, loader, 1)
    return Trainer(net, loader, epochs, prune, settings_of(model, method, settings), Engine("cpu"), method).history
