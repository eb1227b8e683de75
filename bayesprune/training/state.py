"""What a checkpoint of a run holds, said once: its fields, how they are taken of a run, and how a run takes them up."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bayesprune.errors import CheckpointError, ConfigError, GateError
from bayesprune.infer import RandomState
from bayesprune.schema import (
    Mismatch,
    brief,
    dataclass_record,
    generator_state,
    items,
    optional,
    record,
    require,
    shaped,
    table,
    tensor,
    text,
    whole,
)
from bayesprune.training.checkpoint import read_checkpoint
from bayesprune.training.history import STATE, History
from bayesprune.training.optimizer import check_state
from bayesprune.training.trainer import Trainer


def _versions() -> dict[str, str]:
    """What writes checkpoints here."""
    return {"bayesprune": import_module("bayesprune").__version__, "torch": str(torch.__version__)}


def _anything(value: object, where: str) -> None:
    """What is compared with this run's own."""


_bytes = tensor((torch.uint8,), 1)


@dataclass(kw_only=True)
class Checkpoint:
    """Everything that the rest of a run depends on; each field with what it must look like in a file.

    Attributes:
        network: The shapes of the network's parameters as the run began, by name.
        model: What its outputs mean, and what is known of its weights beforehand.
        method: Name of the method.
        settings: How it trains.
        run: What tells the run from every other, if anything was given.
        epochs: Its length.
        steps_per_epoch: Steps of an epoch.
        num_data: Examples of an epoch.
        epoch: Epochs done.
        step: Steps done.
        branch_evaluations: See `GatedNet`.
        origin: By gate name, the indices that the structures left had at the start.
        masks: By name of a weight, which of its entries are kept.
        initial: The weights as the run began, if a phase is to start with them.
        before: The weights as changes are measured from, if a method asks for them.
        frozen: Names of the modules that rest.
        stops: The epochs after which phases were ended early.
        tensors: What the network holds.
        likelihood: What the likelihood holds.
        optimizer: What the optimiser holds.
        history: The record.
        own: What the method holds.
        generator: The random numbers of the method.
        rng: Those of torch, of each process.
        versions: Those of bayesprune and torch that wrote it, which are named if it cannot be taken up by others.
    """

    network: Annotated[dict[str, list[int]], table(items(whole()))]
    model: Annotated[list[Any], items(_anything)]
    method: Annotated[str, text]
    settings: Annotated[list[Any], items(_anything)]
    run: Annotated[str | None, optional(text)] = None
    epochs: Annotated[int, whole(1)]
    steps_per_epoch: Annotated[int, whole(1)]
    num_data: Annotated[int, whole(1)]
    epoch: Annotated[int, whole(1)]
    step: Annotated[int, whole(1)]
    branch_evaluations: Annotated[int, whole()]
    origin: Annotated[dict[str, Tensor], table(tensor((torch.long,), 1))]
    masks: Annotated[dict[str, Tensor], table(tensor((torch.bool,)))]
    initial: Annotated[dict[str, Tensor], table(tensor())]
    before: Annotated[dict[str, Tensor], table(tensor())]
    frozen: Annotated[list[str], items(text)]
    stops: Annotated[list[int], items(whole(1))]
    tensors: Annotated[dict[str, Tensor], table(tensor(finite=True))]
    likelihood: Annotated[dict[str, Tensor], table(tensor())]
    optimizer: Annotated[dict[str, Any], record({"state": _anything, "param_groups": items(table(_anything))})]
    history: Annotated[dict[str, Any], STATE]
    own: Annotated[dict[str, Any], table(_anything)]
    generator: Annotated[Tensor, _bytes]
    rng: Annotated[list[list[Tensor]], items(items(_bytes, 1, 2), 1)]
    versions: Annotated[dict[str, str], table(text)]

    @classmethod
    def of(cls, run: Trainer) -> Checkpoint:
        """What a run holds between two epochs; every process has to ask for it."""
        return cls(
            **run.identity,
            epochs=run.timetable.epochs,
            steps_per_epoch=run.steps_per_epoch,
            run=run.run,
            num_data=run.net.num_data,
            epoch=run.epoch,
            step=run.step,
            branch_evaluations=run.net.branch_evaluations,
            origin=dict(run.origin),
            masks={name: mask.cpu() for name, mask in run.masks.items()},
            initial={name: value.cpu() for name, value in run.starts.initial.items()},
            before={name: value.cpu() for name, value in run.statistics.before.items()},
            frozen=sorted(run.frozen.names),
            stops=list(run.timetable.stops),
            tensors=run.net.net.state_dict(),
            likelihood=run.net.likelihood.state_dict(),
            optimizer=run.optimizer.state_dict(),
            history=run.history.state(),
            own=run.method.state(),
            generator=run.generator.get_state(),
            rng=run.engine.gather(RandomState.now(run.engine.device).tensors()),
            versions=_versions(),
        )

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """What was written to a checkpoint, whole and consistent in itself.

        Raises:
            CheckpointError: if the file is missing, no checkpoint, damaged, or does not hold what a checkpoint does.
        """
        state = read_checkpoint(path)
        with _refused(path, state.get("versions")):
            dataclass_record(cls)(state, "")
            found = cls(**state)
            found._check()
        return found

    def _check(self) -> None:
        """Refuse counts and records that contradict each other."""
        whole(1, self.epochs)(self.epoch, "epoch")
        steps = self.epoch * self.steps_per_epoch
        require(self.step == steps, "step", f"{steps}, that of epoch {self.epoch}", self.step)
        rows, thetas = self.history["rows"], self.history["thetas"]
        require(len(rows) == self.epoch, "history.rows", f"{self.epoch} rows", rows)
        for name, theta in thetas.items():
            where = f"history.thetas.{name}"
            require(len(theta) == self.epoch + 1, where, f"{self.epoch + 1} rows", theta)
            _check_probabilities(theta, where)
        for name, origin in self.origin.items():
            where = f"origin.{name}"
            require(name in thetas, where, "the name of a gate", name)
            size = thetas[name].shape[1]
            ascending = bool((origin.diff() > 0).all()) and bool(((origin >= 0) & (origin < size)).all())
            require(ascending, where, f"ascending indices below {size}", origin.tolist()[:8])
        for name, known in self.history.get("evidence", {}).items():
            where = f"history.evidence.{name}"
            require(name in thetas, where, "the name of a gate", name)
            require(tuple(known.shape) == (thetas[name].shape[1], 3), where, "three numbers a gate", known)

    def take_up(self, run: Trainer, path: Path) -> None:
        """Let a run that has not begun go on from here.

        Args:
            run: The run, edited in place.
            path: Where this was read from, for messages.

        Raises:
            CheckpointError: if network, settings, number of epochs or data differ from this one's, if it was left by
                another run, or if what it holds does not fit.
        """
        try:
            self._check_identity(run, path)
            with _refused(path, self.versions):
                self._restore(run)
        except CheckpointError:
            raise
        except (ConfigError, GateError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            name = type(error).__name__
            raise CheckpointError(
                f"{path} does not fit the run ({name}{_written_by(self.versions)}); start the run anew"
            ) from error
        if len(self.rng) == run.engine.world_size:
            RandomState.of(run.engine.device, self.rng[run.engine.rank]).restore()
        else:
            warnings.warn(
                f"{path} was written by {len(self.rng)} processes and is taken up by {run.engine.world_size}: the "
                "run goes on with the same batches and gates, but with other random numbers for dropout",
                stacklevel=2,
            )

    def _check_identity(self, run: Trainer, path: Path) -> None:
        """Refuse the checkpoint of another run."""
        length = {"epochs": run.epochs, "steps_per_epoch": run.steps_per_epoch}
        for key, mine in {**run.identity, **length, "run": run.run}.items():
            found = getattr(self, key)
            if found != mine:
                theirs, ours = _where_they_differ(found, mine)
                raise CheckpointError(
                    f"{path} belongs to another run: its {key} is {brief(theirs)}, here it is {brief(ours)}; "
                    "resume with the same network, data, settings and epochs, or start in another folder"
                )

    def _restore(self, run: Trainer) -> None:
        run.freeze(self.frozen)
        run.timetable.load(self.stops)
        run.epochs = run.timetable.length
        cut = run.cuts.cut_to(self.origin)
        self._check_fits(run, run.net.net if cut is None else cut[0])
        if cut is not None:
            run.cuts.follow(*cut)
        run.masks_held.load(self.masks)
        run.starts.load(self.initial)
        run.statistics.load(self.before)
        run.net.net.load_state_dict(self.tensors)
        run.net.likelihood.load_state_dict(self.likelihood)
        run.optimizer.load_state_dict(self.optimizer)
        run.follow()
        run.records.history = History.from_state(self.history)
        run.cuts.removals = run.history.removals
        run.epoch, run.step = self.epoch, self.step
        run.stretch = run.timetable.at(self.epoch - 1)  # the next phase begins with its first epoch, if there is one
        run.method.load(self.own, run)
        run.generator.set_state(self.generator)
        run.net.branch_evaluations = self.branch_evaluations

    def _check_fits(self, run: Trainer, smaller: nn.Module) -> None:
        """Refuse what does not fit a run, and the network that is left of it when the same structures are gone."""
        start = run.records.start_gates
        sizes = {name: path.shape[1] for name, path in self.history["thetas"].items()}
        require(sizes == start, "history.thetas", brief(start), sizes)
        own = smaller.state_dict()
        shaped(own)(self.tensors, "tensors")
        for name in start:
            if f"{name}.theta" in own:
                _check_probabilities(self.tensors[f"{name}.theta"], f"tensors.{name}.theta")
        shaped(run.net.likelihood.state_dict())(self.likelihood, "likelihood")
        run.method.check(self.own, sum(len(origin) for origin in self.origin.values()))
        before, after = (dict(net.named_parameters()) for net in (run.net.net, smaller))
        trained = run.trained()
        others = {name: p for name, p in trained.items() if name not in before}
        names = {id(p): name for name, p in trained.items()}
        check_state(run.net, run.optimizer, run.settings, names, {**after, **others}, self.optimizer)
        for where, values in (("generator", [self.generator]), ("rng", [states[0] for states in self.rng])):
            for value in values:
                generator_state(value, where)


@contextmanager
def _refused(path: Path, versions: object) -> Iterator[None]:
    """Say of which checkpoint it is that something in it is not as it should be.

    Args:
        path: Where it was read from.
        versions: What it says of those that wrote it.
    """
    try:
        yield
    except Mismatch as error:
        raise CheckpointError(
            f"{path} does not hold what a checkpoint does: {error}{_written_by(versions)}; start the run anew"
        ) from error


def _written_by(versions: object) -> str:
    """What a message says of the versions that wrote a checkpoint: nothing, if they are those of today."""
    here = _versions()
    if versions == here or not isinstance(versions, dict):
        return ""
    return f"; it was written by {brief(versions)}, here are {brief(here)}"


def _where_they_differ(found: object, mine: object) -> tuple[object, object]:
    """The first entries in which two lists differ, however deep; of anything else the two themselves."""
    if not isinstance(found, list) or not isinstance(mine, list) or len(found) != len(mine):
        return found, mine
    return next(_where_they_differ(*pair) for pair in zip(found, mine, strict=True) if pair[0] != pair[1])


def _check_probabilities(theta: Tensor, where: str) -> None:
    require(bool(((theta >= 0) & (theta <= 1)).all()), where, "probabilities from 0 to 1", theta.flatten()[:4].tolist())
