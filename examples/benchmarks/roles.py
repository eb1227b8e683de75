"""The runs that are set side by side: dense, self-pruned, and what the network that is left does from fresh weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from cases import Setting
from plain import train_plain
from report import write_json
from torch import nn

import bayesprune as bp
from bayesprune.comparison.material import fresh
from bayesprune.layers import gates_of
from bayesprune.methods.svi.schedule import make_schedule
from bayesprune.training import Settings

FORWARD_AND_BACKWARD = 3
"""What `History.charged` counts for an example of a step: a forward pass one, a backward pass two."""


@dataclass(frozen=True)
class Outcome:
    """What one run ended with.

    Attributes:
        role: Its part in the comparison.
        seed: Of its weights and of the order of its batches.
        accuracy: Of the network that is left, 0 to 1.
        params: Its parameters.
        macs: Its multiply-adds of one example.
        seconds: Processor time from no network at all to the plain one that is left.
        epochs: Length of the run.
        work: Σ over its steps of the multiply-adds of the network at that time, relative to the dense run.
        charged: `History.charged` of a self-pruned run.
        converged: Fraction of its gates that have converged.
        gates: By gate name, how many are left.
    """

    role: str
    seed: int
    accuracy: float
    params: int
    macs: int
    seconds: float
    epochs: int
    work: float
    charged: float | None = None
    converged: float | None = None
    gates: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """The outcome that a finished run wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True)
class Run:
    """What a run is given.

    Attributes:
        setting: The case and its data.
        seed: Of weights and order.
        folder: Of this case and seed, where every run leaves ``ROLE.json``.
    """

    setting: Setting
    seed: int
    folder: Path

    def pruned(self) -> tuple[Outcome, nn.Module]:
        """What the self-pruned run of this seed ended with, and the plain network that it left."""
        return Outcome.read(self.folder / "self-pruned.json"), bp.load(self.folder / "self-pruned.safetensors")


def dense(run: Run) -> Outcome:
    """The network without gates, in a plain loop."""
    return _trained(run, "dense", run.setting.plain, run.setting.case.epochs)


def self_pruned(run: Run) -> Outcome:
    """The network that prunes itself: `fit` by its recommended settings, under the budget of the case if it has one."""
    setting, epochs = run.setting, run.setting.case.epochs
    train, test = setting.loaders(run.seed)
    torch.manual_seed(run.seed)
    began = time.process_time()
    bnn = setting.bayesian()
    history = bp.fit(bnn, train, epochs=epochs, settings=setting.settings, progress=False)
    small = bp.compact(bnn)
    seconds = time.process_time() - began
    bp.save(small, run.folder / "self-pruned.safetensors")
    size = bp.cost(small, setting.example)
    return Outcome(
        "self-pruned",
        run.seed,
        bp.training.evaluate(small, test).accuracy,
        size.params,
        size.macs or 0,
        seconds,
        epochs,
        work_of(history.charged, setting),
        history.charged,
        history.rows[-1].gates_converged,
        {name: int((path[-1] > 0.5).sum()) for name, path in history.thetas.items()},
    )


def work_of(charged: float, setting: Setting) -> float:
    """Σ over steps of the multiply-adds then, relative to as many steps of the dense network.

    Args:
        charged: `History.charged` of a run.
        setting: Of the run.
    """
    examples = len(setting.splits.train) * setting.case.epochs
    return charged / (FORWARD_AND_BACKWARD * examples * (setting.whole.macs or 1))


def scratch(run: Run) -> Outcome:
    """The network that the self-pruned run ended with, from fresh weights, for as many epochs."""
    return _trained(run, "scratch", lambda: fresh(run.pruned()[1]), run.setting.case.epochs)


def scratch_equal(run: Run) -> Outcome:
    """The same for as many epochs as its multiply-adds allow that the self-pruned run was charged."""
    pruned, _ = run.pruned()
    an_epoch = FORWARD_AND_BACKWARD * pruned.macs * len(run.setting.splits.train)
    epochs = max(1, round((pruned.charged or 0.0) / an_epoch))
    return _trained(run, "scratch, equal compute", lambda: fresh(run.pruned()[1]), epochs)


def scratch_rise(run: Run) -> Outcome:
    """As scratch, by the learning rates of the self-pruned run, which rise a second time."""
    epochs = run.setting.case.epochs
    after = make_schedule(run.setting.bayesian(), epochs, steps_per_epoch=1, settings=Settings()).fine_tune_from
    return _trained(run, "scratch, second rise", lambda: fresh(run.pruned()[1]), epochs, after)


def random_inputs(run: Run) -> Outcome:
    """A network of the same widths from fresh weights, whose inputs are chosen at random."""
    return _trained(run, "random inputs", lambda: fresh(same_widths(run)), run.setting.case.epochs)


def same_widths(run: Run) -> nn.Module:
    """The plain network with as many gates on as the self-pruned run left, chosen at random."""
    net, left = run.setting.gated().eval(), run.pruned()[0].gates
    for name, gate in gates_of(net).items():
        with torch.no_grad():
            gate.theta.zero_()[torch.randperm(gate.size)[: left[name]]] = 1.0
    return bp.compact(net)


ROLES: dict[str, Callable[[Run], Outcome]] = {
    "dense": dense,
    "self-pruned": self_pruned,
    "scratch": scratch,
    "scratch, equal compute": scratch_equal,
    "scratch, second rise": scratch_rise,
    "random inputs": random_inputs,
}


def roles_of(setting: Setting) -> list[str]:
    """The runs of a case, in the order in which they need each other; random inputs only where inputs have gates."""
    return [role for role in ROLES if setting.case.inputs or role != "random inputs"]


def outcome(run: Run, role: str) -> Outcome:
    """The outcome of one run, which is made unless it was before."""
    path = run.folder / f"{role}.json"
    if not path.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(ROLES[role](run)))
    return Outcome.read(path)


def _trained(run: Run, role: str, build: Callable[[], nn.Module], epochs: int, again: float | None = None) -> Outcome:
    """Train a network without gates in a plain loop.

    Args:
        run: What it is given.
        role: Its part.
        build: Makes the network, from torch's global random state.
        epochs: Length of the run.
        again: After which share of it the learning rate rises a second time; ``None`` for never.
    """
    setting = run.setting
    train, test = setting.loaders(run.seed)
    torch.manual_seed(run.seed)
    began = time.process_time()
    net = build()
    train_plain(net, train, epochs, setting.optimizer(net), setting.loss, again)
    seconds = time.process_time() - began
    size, whole = bp.cost(net, setting.example), setting.whole
    work = (size.macs or 0) * epochs / ((whole.macs or 1) * setting.case.epochs)
    accuracy = bp.training.evaluate(net, test).accuracy
    return Outcome(role, run.seed, accuracy, size.params, size.macs or 0, seconds, epochs, work)
