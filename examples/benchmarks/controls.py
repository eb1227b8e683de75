"""Plain controls of self-pruning: what it ended with from scratch, and smaller networks of the dense one's family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from experiment import Experiment, TooSmall, example
from running import Progress, Row, Run, begin, finish, needed, train_plainly

import bayesprune as bp
from bayesprune.comparison.material import fresh
from bayesprune.layers import Residual
from bayesprune.methods import Method, Needs, Phase
from bayesprune.methods import Run as TrainingRun
from bayesprune.methods.none import Plain
from bayesprune.methods.svi.schedule import make_schedule
from bayesprune.training import Settings


def scratch(run: Run) -> Row:
    """Train the network that the gated one became from fresh weights, for as many epochs."""
    return _anew(run, "scratch", run.experiment.epochs)


def scratch_equal(run: Run) -> Row:
    """Train the network that the gated one became from fresh weights, for as many multiply-adds as that took."""
    (target,) = needed(run, "gated")
    epoch = 3 * target.macs * len(run.splits.train)  # forward, and backward to inputs and to weights
    return _anew(run, "scratch-equal", max(1, round(target.charged / epoch)))


class SecondRise(Plain):
    """Plain training whose learning rate rises a second time, as that of a self-pruning run does.

    Args:
        after: After which share of the run.
    """

    def __init__(self, after: float):
        super().__init__()
        self.after = after

    def setup(self, run: TrainingRun) -> Needs:
        """One phase, with the second rise in it."""
        return Needs((Phase("train", rise_again=self.after),))


def scratch_rise(run: Run) -> Row:
    """Train the network that the gated one became from fresh weights, by the gated one's learning rates."""
    net = run.experiment.bayesian(run.splits)
    after = make_schedule(net, run.experiment.epochs, steps_per_epoch=1, settings=Settings()).fine_tune_from
    return _anew(run, "scratch-rise", run.experiment.epochs, SecondRise(after))


def shallower(run: Run) -> Row:
    """Train the deepest network of the family that takes no more multiply-adds than the gated one ended with.

    Raises:
        TooSmall: if there is none.
    """
    name, depth = re.fullmatch(r"([a-z]+)(\d+)", run.experiment.net).groups()
    if name != "resnet":
        raise TooSmall(f"the shallower control is left out: {run.experiment.net} has no family of depths")
    return _member(run, "shallower", (replace(run.experiment, net=f"resnet{d}") for d in range(8, int(depth), 6)))


def narrower(run: Run) -> Row:
    """Train the widest network of this depth that takes no more multiply-adds than the gated one ended with.

    Raises:
        TooSmall: if there is none.
    """
    return _member(run, "narrower", (replace(run.experiment, width=width) for width in range(1, 1000)))


def _anew(run: Run, name: str, epochs: int, method: str | Method = "none") -> Row:
    """Train the gated pipeline's last network from fresh weights.

    Args:
        run: What the pipeline was given.
        name: Of the pipeline.
        epochs: Length of the run.
        method: How it is trained.
    """
    (target,) = needed(run, "gated")
    folder = begin(run, name)
    net = fresh(bp.load(run.folder / "gated" / "model.safetensors")).train()
    net = net.to(run.experiment.device, memory_format=run.experiment.memory_format)
    progress = Progress(folder, run.deadline)
    history = train_plainly(run, net, folder, epochs, run.experiment.lr, progress, method)
    return finish(run, name, net, history, progress, branches=target.branches)


def _member(run: Run, name: str, family: Iterable[Experiment]) -> Row:
    """Train the dearest network of a family, given from the cheapest on, that costs no more than the gated one.

    Args:
        run: What the pipeline was given.
        name: Of the pipeline.
        family: How its members are trained.
    """
    (target,) = needed(run, "gated")
    chosen = list(_within(run, family, target.macs))
    if not chosen:
        raise TooSmall(f"the {name} control is left out: no network of the family takes {target.macs} multiply-adds")
    folder = begin(run, name)
    start = chosen[-1].gated(run.splits)
    branches = sum(isinstance(module, Residual) for module in start.modules())
    net = bp.compact(start.train())
    progress = Progress(folder, run.deadline)
    history = train_plainly(run, net, folder, run.experiment.epochs, run.experiment.lr, progress)
    return finish(run, name, net, history, progress, branches=(branches, branches))


def _within(run: Run, family: Iterable[Experiment], macs: int) -> Iterator[Experiment]:
    """The members of a family before the first that takes more than ``macs`` multiply-adds."""
    for member in family:
        if bp.cost(member.plain(run.splits), example(run.splits)).macs > macs:
            return
        yield member
