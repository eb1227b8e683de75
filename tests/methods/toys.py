"""Toy methods for what no method of the package asks of the loop yet, and small runs of any method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from bayesprune.infer import BayesianNet
from bayesprune.layers import Gate, gates_of
from bayesprune.methods import Decision, Method, Needs, Phase, Run, Site, Stats, get_method
from bayesprune.methods.protocol import Statistic
from bayesprune.training import History, Settings, fit
from tests.training.problems import Batches, bayesian, examples, units

QUICK = {"sample_from": 0.05, "settle_from": 0.4, "fine_tune_from": 0.75, "travel": 5.0, "checks_per_epoch": 3}
EPOCHS = 4


class Rewinding(Method):
    """Masks some weights at random after every epoch, and trains what is left from the initial weights."""

    name = "rewinding"

    def __init__(self, start: str = "initial"):
        super().__init__()
        self.start = start
        self.register_buffer("decisions", torch.zeros(1))

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("mask", decide_every=1), Phase("again", start=self.start, lr=0.5)))  # type: ignore[arg-type]

    def decide(self, run: Run) -> Decision:
        self.decisions += 1
        masks = {
            site.name: torch.rand(site.weight.shape, generator=run.generator) < 0.8
            for site in run.sites
            if site.kind == "weight"
        }
        return Decision(masks=masks if run.phase.name == "mask" else {})


class Smallest(Method):
    """Switches off one unit of each layer after every epoch, or all of them."""

    name = "smallest"

    def __init__(self, everything: bool = False):
        super().__init__()
        self.everything = everything

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("prune", decide_every=1),))

    def decide(self, run: Run) -> Decision:
        if run.epoch > 2:
            return Decision()
        off = {}
        for name, gate in gates_of(run.net.net).items():
            off[name] = torch.full((gate.size,), self.everything)
            off[name][run.epoch - 1] = True
        return Decision(off=off)


class Viewed(Method):
    """Computes with the half of each weight that is largest, and half of each output; a parameter of its own learns."""

    name = "viewed"

    def setup(self, run: Run) -> Needs:
        self.scale = nn.Parameter(torch.ones(()))
        return Needs(views=frozenset({"weight", "output"}))

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        if site.kind == "output":
            return value / 2
        return value * (value.abs() >= value.abs().median()) * self.scale


class Ridge(Method):
    """Weights are Normal(0, 1) beforehand; what validation says is heard after every epoch."""

    name = "ridge"

    def setup(self, run: Run) -> Needs:
        self.scores: list[float] = []
        return Needs((Phase("train", decide_every=1),))

    def loss(self, run: Run) -> Tensor:
        squares = [site.weight.square().sum() for site in run.sites if site.kind == "weight"]
        return torch.stack(squares).sum() / (2 * run.net.num_data)

    def decide(self, run: Run) -> Decision:
        self.scores.append(run.validate().nll)
        return Decision(note={"nu": self.scores[-1]})


class Freezing(Method):
    """The first layers rest after the first epoch; the last one starts from the initial weights in the second half."""

    name = "freezing"

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("train", decide_every=1), Phase("again", start="initial", restart=False)))

    def decide(self, run: Run) -> Decision:
        return Decision(freeze=frozenset({"0", "1"}))


class Stopping(Method):
    """Each of two phases ends after one epoch, however long it was to be."""

    name = "stopping"

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("a", decide_every=1), Phase("b", decide_every=1)))

    def decide(self, run: Run) -> Decision:
        return Decision(stop=True, note={"nu": run.progress})


class Telling(Method):
    """Asks for all statistics after every second epoch, and lets the scores of units that they give be weights."""

    name = "telling"

    def setup(self, run: Run) -> Needs:
        self.heard: list[Stats] = []
        return Needs((Phase("train", decide_every=2),), stats=get_args(Statistic), examples=100)

    def decide(self, run: Run) -> Decision:
        stats = run.stats()
        self.heard.append(stats)
        bias = {f"{name}.bias": score.float() for name, score in stats.mean_abs.items() if name == "1"}
        off = torch.zeros(run.net.net[1].weight.shape[0], dtype=torch.bool)
        off[stats.act_grad["1"].size.argmin()] = True
        return Decision(assign=bias, off={"1": off}, note={"nu": float(stats.change["1.weight"])})


TOYS: dict[str, Callable[[], Method]] = {
    "rewinding": Rewinding, "fresh": lambda: Rewinding("fresh"), "smallest": Smallest, "viewed": Viewed, "ridge": Ridge,
    "freezing": Freezing, "stopping": Stopping, "telling": Telling,
}  # fmt: skip


ALIKE = {
    "dropout_norms", "dsd", "fpgm", "hrank", "l1_filters", "large_weights", "layerwise_l0", "learn_drop", "lottery",
    "movement", "random_structures", "refined", "sparse_vd", "spectral_dropout", "targeted_units", "unit_norms",
}  # fmt: skip
"""Methods that act as others do; the laws of these are kept in the slow stage."""


def each(*names: str) -> list[Any]:
    """Methods as parameters of a law."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in names]


def batches(size: int = 40, copies: int = 1) -> Batches:
    x, y = examples()
    return Batches(x.repeat(copies, 1), y.repeat(copies), size)


def made(name: str, make: Callable[[], nn.Module] = units, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A model that a method trains, and the arguments of `fit` that say how."""
    torch.manual_seed(8)
    if name == "svi":
        return bayesian(make(), 2.0), {"settings": Settings(lr=0.02, every=1, schedule=QUICK)}
    method = TOYS[name]() if name in TOYS else get_method(name, **options)
    return (normalised if name == "slimming" else make)(), {"method": method, "settings": Settings(lr=0.02)}


def network(model: nn.Module) -> nn.Module:
    return model.net if isinstance(model, BayesianNet) else model


def train(name: str, make: Callable[[], nn.Module] = units, **more: Any) -> tuple[nn.Module, History]:
    model, how = made(name, make)
    return model, fit(model, **{"train_loader": batches(), "epochs": EPOCHS, "val_loader": batches(), **how, **more})


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), Gate(6), nn.Dropout(0.1), nn.Linear(6, 2))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def dropped_units() -> nn.Module:
    net = units()
    return nn.Sequential(*net[:3], nn.Dropout(0.1), net[3])
