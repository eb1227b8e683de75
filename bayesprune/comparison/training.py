"""How one run trains: the same data, batches, recipe and initial weights, whichever method it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprune.comparison.goals import DENSE, MACS, OURS, SMALL, UNGATED, WEIGHTS, Aimed, Goal, aim, least
from bayesprune.comparison.material import Material, batches, example, fresh
from bayesprune.comparison.measuring import nonzero
from bayesprune.comparison.pacing import first_length, length_of
from bayesprune.comparison.plan import RATE
from bayesprune.comparison.runs import Run
from bayesprune.data import Splits
from bayesprune.infer import BayesianNet, Categorical
from bayesprune.layers import gates_of
from bayesprune.methods import get_method
from bayesprune.methods.protocol.structures import ranked_groups, share_without
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.method import SVI
from bayesprune.methods.svi.recipes import Recipe
from bayesprune.methods.svi.schedule import FRACTIONS
from bayesprune.methods.svi.settings import Settings
from bayesprune.optim import OPTIMIZERS
from bayesprune.pruning import compact, cost, load
from bayesprune.training import EpochRow, History, fit
from bayesprune.training.records import TRAINING


@dataclass(frozen=True)
class Begun:
    """What a run begins with.

    Attributes:
        run: The run.
        material: Where networks and data come from.
        splits: Its data; ``test`` is what is scored.
        recipe: How the network is trained.
        folder: Its files.
        root: The folder of the comparison.
        on_epoch: Called with every finished epoch.
        trainer: What is called to train.
    """

    run: Run
    material: Material
    splits: Splits
    recipe: Recipe
    folder: Path
    root: Path
    on_epoch: Callable[[EpochRow], None]
    trainer: Callable[..., History] = fit

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.recipe.lr * self.run.options.get(RATE, 1.0)

    @property
    def options(self) -> dict[str, Any]:
        """What the method itself is made with."""
        return {name: value for name, value in self.run.options.items() if name != RATE}

    @property
    def weight_decay(self) -> float:
        """λ/N."""
        decay = self.recipe.weight_decay
        return 1 / len(self.splits.train) if decay is None else decay

    @cached_property
    def dense(self) -> tuple[int, int]:
        """Multiply-adds of one example and weights of the network, all of it there; draws no random number."""
        with torch.random.fork_rng(devices=[]):
            net = compact(self.material.network(self.run.task, self.splits).train())
        return cost(net, example(self.splits)).macs or 1, nonzero(net) or 1

    def allowed(self) -> float:
        """Multiply-adds that the run may take, those of a dense run times the run's multiple."""
        return TRAINING * self.dense[0] * len(self.splits.train) * self.run.task.epochs * self.run.compute

    def epochs(self, net: nn.Module | None = None) -> int:
        """The length of the run.

        Args:
            net: A network that is small from the start on, which is trained no longer than it may; ``None`` for others.
        """
        epochs, compute = self.run.task.epochs, self.run.compute
        if net is None:
            return self.run.epochs or first_length(epochs, compute)
        longest = length_of((cost(net, example(self.splits)).macs or 1) / self.dense[0], epochs, compute)
        return min(self.run.epochs or longest, longest)

    def fit(self, net: nn.Module, epochs: int, **given: Any) -> History:
        """Train a network, or go on with it.

        Args:
            net: The network.
            epochs: Length of the run.
            **given: What `bayesprune.fit` is given besides.
        """
        loader = batches(self.splits, self.recipe, self.run.seed)[0]
        given |= {"epochs": epochs, "out": self.folder, "on_epoch": self.on_epoch, "progress": False}
        return self.trainer(net, loader, **given)

    def fit_plain(self, net: nn.Module, epochs: int, **given: Any) -> History:
        """Train a network without a posterior.

        Args:
            net: The network.
            epochs: Length of the run.
            **given: What `bayesprune.fit` is given besides.
        """
        optimizer = partial(OPTIMIZERS[self.recipe.optimizer], weight_decay=self.weight_decay)
        likelihood = Categorical(self.recipe.label_smoothing)
        return self.fit(net, epochs, likelihood=likelihood, settings=Settings(self.rate, optimizer), **given)


def train(begun: Begun) -> tuple[nn.Module, History]:
    """Train one run; returns the network that it ends with, with its gates if it has some, and the record.

    Args:
        begun: What it begins with.

    Raises:
        BayesPruneError: as `fit`, and if the method cannot reach the goal.
    """
    torch.manual_seed(begun.run.seed)
    parent = begun.run.parent
    if parent is not None:
        net = fresh(load(begun.root / parent / "model.safetensors")).train()
        return net, begun.fit_plain(net, begun.epochs(net), method="none")
    gated = begun.material.network(begun.run.task, begun.splits)
    if begun.run.trainer == SMALL:
        net = fresh(compact(narrowed(gated, begun.run.goal, begun.splits))).train()
        return net, begun.fit_plain(net, begun.epochs(net), method="none")
    if begun.run.trainer == DENSE:
        net = compact(gated.train())
        return net, begun.fit_plain(net, begun.epochs(), method="none")
    if begun.run.trainer == OURS:
        return _train_ours(begun, gated)
    if begun.run.trainer in UNGATED:
        gated = compact(gated.train())
    at = Aimed(gated, example(begun.splits), begun.epochs())
    options = begun.options | aim(begun.run.trainer, begun.run.goal, begun.options, at)
    prune = begun.run.goal.measure != WEIGHTS  # masked weights are computed with; what is off goes in the end
    history = begun.fit_plain(gated, begun.epochs(), method=get_method(begun.run.trainer, **options), prune=prune)
    return gated.eval(), history


def _train_ours(begun: Begun, gated: nn.Module) -> tuple[nn.Module, History]:
    """Variational inference, with a budget."""
    recipe, count, goal = begun.recipe, len(begun.splits.train), begun.run.goal
    schedule, changes = divided(begun.options)
    budget = Budget("macs" if goal.measure == MACS else "params", goal.share)
    settings = recipe.settings(lr=begun.rate, budget=budget, schedule=schedule, **changes)
    likelihood = Categorical(recipe.label_smoothing)
    net = BayesianNet(gated, likelihood, num_data=count, weight_precision=begun.weight_decay * count)
    method = SVI(settings)
    history = begun.fit(net, begun.epochs(), method=method)
    history.charged += method.settling.allowance.spent  # on exact differences, which the steps' account has not
    return net.gated_network().eval(), history


def divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of variational inference that belong to its schedule, and the others."""
    schedule = {name: value for name, value in options.items() if name in FRACTIONS}
    return schedule, {name: value for name, value in options.items() if name not in schedule}


@torch.no_grad()
def narrowed(gated: nn.Module, goal: Goal, splits: Splits) -> nn.Module:
    """The gated network with the same share of the units of each layer off, so that the goal is met.

    Args:
        gated: The network, edited in place.
        goal: What is to be left.
        splits: Its data.

    Raises:
        ConfigError: if that is not possible.
    """
    sizes = {name: group.size for group in ranked_groups(gated, example(splits)) for name in group.gates}
    left_of = share_without(gated, example(splits))

    def off(part: float) -> dict[str, torch.Tensor]:
        return {name: torch.arange(size) >= max(1, round((1 - part) * size)) for name, size in sizes.items()}

    part = least(lambda part: left_of(off(part)), goal, "a narrower network")
    gates = gates_of(gated)
    for name, gone in off(part).items():
        gates[name].theta.copy_((~gone).to(gates[name].theta))
    return gated
