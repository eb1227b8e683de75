"""What is compared: a settings file that is written before anything is run, and read once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bayesprune.arguments import checked_arguments
from bayesprune.checked import meant, real, whole
from bayesprune.comparison.goals import FREE, MACS, OURS, SMALL, WEIGHTS, Goal, measures_of, told_by
from bayesprune.comparison.ranges import Ranges, read_range
from bayesprune.comparison.tables import check_complete, made, parsed, table
from bayesprune.errors import ConfigError
from bayesprune.methods import NAMES, get_method
from bayesprune.methods.svi.schedule import FRACTIONS
from bayesprune.methods.svi.settings import Settings

RATE = "lr"
"""The option that every method has: the learning rate, in units of what is recommended for the network."""
OF_OURS = (*Settings.__dataclass_fields__, *FRACTIONS)
"""What may be tuned of variational inference."""
LONGEST = 100
"""Letters of a setting in a message."""


@checked_arguments
@dataclass(frozen=True)
class Task:
    """A network on a data set.

    Attributes:
        net: Name of the network, as `bayesprune.networks.build` takes it, or one that `compare` is given.
        data: Name of the data set, as `bayesprune.data.load` takes it.
        epochs: Length of a dense run.
        limit: Number of training examples; ``None`` for all.
        side: Pixels a side that images are averaged to; ``None`` for their own.
        width: Channels of the first stage; ``None`` for the network's own.
        convert: Whether gates are where `bayesprune.convert` puts them, on units, filters, heads and branches, rather
            than where the network has them.

    Examples:
        >>> Task("lenet300", "digits", epochs=20).name
        'lenet300-digits'
    """

    net: str
    data: str
    epochs: int
    limit: int | None = None
    side: int | None = None
    width: int | None = None
    convert: bool = False

    @property
    def name(self) -> str:
        """What rows call it."""
        return f"{Path(self.net).name.replace(':', '-')}-{self.data.partition(':')[0]}"


@checked_arguments
@dataclass(frozen=True)
class Tuning:
    """How options are chosen, for each method and task alike.

    Attributes:
        trials: How many there are, the defaults among them.
        seed: Of all of them; none of the seeds that are compared.
        held_out: Which share of the training examples they are scored on.
        macs: The goal that structured methods have meanwhile.
        weights: That of methods that mask weights.

    Examples:
        >>> Tuning(trials=8, seed=1000).held_out
        0.1
    """

    trials: int
    seed: int
    held_out: float = 0.1
    macs: float = 0.25
    weights: float = 0.05


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first run.

    Attributes:
        title: What the page is called.
        tasks: The networks and data.
        methods: By name of a method, what may be tuned of it.
        seeds: Those of the runs that are compared.
        tuning: How options are chosen.
        macs: The shares of multiply-adds that structured methods leave.
        weights: The shares of weights that others leave.
        compute: What a run may take to compute, in units of a dense run.
        retrained: Methods whose last networks are trained anew from fresh weights, as a control.
        untuned: Methods that are also run by their defaults, whatever the trials spoke for.

    Examples:
        >>> plan = Plan.read("quick")
        >>> [str(goal) for goal in plan.goals("magnitude")]
        ['weights=0.1', 'weights=0.02']
    """

    title: str
    tasks: tuple[Task, ...]
    methods: dict[str, Ranges]
    seeds: tuple[int, ...]
    tuning: Tuning
    macs: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    compute: tuple[float, ...] = (1.0, 2.0)
    retrained: tuple[str, ...] = ()
    untuned: tuple[str, ...] = ()

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Plan:
        """The plan of a settings file.

        Args:
            source: Path of a TOML file, ``"quick"`` or ``"full"`` for those of the package, or what such a file holds.

        Raises:
            ConfigError: for what is missing, unknown or cannot work.
            FileError: if the file cannot be read.
        """
        given = dict(source) if isinstance(source, Mapping) else parsed(source)
        check_complete(cls, "a settings file", given)
        tasks, tuning, methods = (given.pop(key) for key in ("tasks", "tuning", "methods"))
        if not isinstance(tasks, list | tuple):
            raise ConfigError(f"compare: tasks must be a list of tables, [[tasks]], got {tasks!r}")
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        plan = made(
            cls,
            "a settings file",
            lists
            | {"tasks": tuple(made(Task, f"task {number}", task) for number, task in enumerate(tasks, 1))}
            | {"tuning": made(Tuning, "tuning", tuning), "methods": _ranges(methods)},
        )
        plan.check()
        return plan

    @classmethod
    def of_text(cls, text: str) -> Plan:
        """The plan whose `text` that is."""
        given = json.loads(text)
        for ranges in given["methods"].values():
            ranges |= {option: its.get("values", its) for option, its in ranges.items()}
        return cls.read(given)

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: for it.
        """
        for name, values in (("tasks", self.tasks), ("methods", self.methods), ("seeds", self.seeds)):
            if not values:
                raise ConfigError(f"compare: the settings name no {name}; give one at least")
        if not (self.macs or self.weights):
            raise ConfigError("compare: the settings name no goals; give shares as macs, weights or both")
        for task in self.tasks:
            whole(f"compare: epochs of {task.name}", task.epochs)
        for seed in (*_numbers("seeds", self.seeds), self.tuning.seed):
            whole("compare: a seed", seed, 0)
        if self.tuning.seed in self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ConfigError("compare: seeds must differ from each other and from that of tuning")
        whole("compare: tuning.trials", self.tuning.trials)
        shares = {"held_out": self.tuning.held_out, "macs": self.tuning.macs, "weights": self.tuning.weights}
        for name, share in shares.items():
            real(f"compare: tuning.{name}", share, 0, 1)
        for name in (MACS, WEIGHTS):
            for share in _numbers(name, getattr(self, name)):
                real(f"compare: each of {name}", share, 0, 1)
        for multiple in _numbers("compute", self.compute):
            real("compare: each of compute", multiple, 0)
        for name in (MACS, WEIGHTS, "compute", "retrained", "untuned"):
            _check_once(name, _numbers(name, getattr(self, name)))
        self._check_methods()
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise ConfigError("compare: two tasks have the same network and data; each pair may be there once")

    def _check_methods(self) -> None:
        for name, ranges in self.methods.items():
            there = (*NAMES, SMALL)
            if name not in there:
                raise ConfigError(f"compare: unknown method {name!r}{meant(name, there)}; known are {', '.join(there)}")
            known = OF_OURS if name == OURS else () if name == SMALL else get_method(name).options()
            for option in ranges:
                if option != RATE and option not in known:
                    raise ConfigError(f"compare: {name} has no option {option!r}; it has {', '.join((RATE, *known))}")
                if option == told_by(name):
                    raise ConfigError(f"compare: {option!r} of {name} is what the goal says; it cannot be tuned too")
        for key in ("retrained", "untuned"):
            lacking = [name for name in getattr(self, key) if name not in self.methods]
            if lacking:
                raise ConfigError(f"compare: {key} names {', '.join(lacking)}, but methods does not")
        if self.retrained and SMALL not in self.methods:
            raise ConfigError(
                f"compare: retrained names methods, but methods has no {SMALL!r}, by whose options they are trained"
            )

    def only(self, *, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> Plan:
        """The plan with a part of its methods and tasks.

        Args:
            methods: Their names; ``None`` for all.
            tasks: Their names, such as ``lenet300-digits``; ``None`` for all.

        Raises:
            ConfigError: if it has one of them not, or one is named twice.
        """
        names = list(self.methods) if methods is None else methods
        _check_part("methods", names, self.methods)
        there = {task.name: task for task in self.tasks}
        left = list(there) if tasks is None else tasks
        _check_part("tasks", left, there)
        return replace(
            self,
            methods={name: self.methods[name] for name in names},
            tasks=tuple(there[name] for name in left),
            retrained=tuple(name for name in self.retrained if name in names and SMALL in names),
            untuned=tuple(name for name in self.untuned if name in names),
        )

    def goals(self, method: str) -> list[Goal]:
        """What a method is to leave, goal by goal."""
        shares = {MACS: self.macs, WEIGHTS: self.weights, FREE: (1.0,)}
        return [Goal(measure, share) for measure in measures_of(method) for share in shares[measure]]

    def tuning_goal(self, method: str) -> Goal:
        """What it is to leave while its options are chosen."""
        measure = measures_of(method)[0]
        return Goal(measure, {MACS: self.tuning.macs, WEIGHTS: self.tuning.weights, FREE: 1.0}[measure])

    def text(self) -> str:
        """The plan as JSON, always the same for the same plan."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    def differences(self, text: str) -> list[str]:
        """What another plan has otherwise, setting by setting: ``"seeds: 0, 1 there, 0 here"``.

        Args:
            text: The `text` of the other one.

        Raises:
            ValueError: if that is no plan; also TypeError, KeyError or AttributeError.
        """
        there, here = (_by_name(json.loads(each)) for each in (text, self.text()))
        keys = sorted(there.keys() | here.keys())
        return [said for key in keys for said in _differing(key, there.get(key), here.get(key))]

    @property
    def digest(self) -> str:
        """What tells it from every other plan."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]


def _by_name(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a plan's text, with tasks by their names."""
    return settings | {"tasks": {Task(**task).name: task for task in settings["tasks"]}}


def _differing(where: str, there: object, here: object) -> list[str]:
    """Where two settings differ, with both values; of tables that hold other names, these names.

    Args:
        where: What they are called.
        there: That of one plan.
        here: That of the other.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        if list(there) == list(here):
            return [said for key in here for said in _differing(f"{where}.{key}", there[key], here[key])]
        there, here = list(there), list(here)
    return [] if there == here else [f"{where}: {_brief(there)} there, {_brief(here)} here"]


def _brief(setting: object) -> str:
    """A setting in few words."""
    text = (", ".join(map(str, setting)) or "none") if isinstance(setting, list) else str(setting)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _numbers(name: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, tuple):
        raise ConfigError(f"compare: {name} must be a list, got {values!r}")
    return values


def _check_part(kind: str, names: Sequence[str], there: Collection[str]) -> None:
    """Refuse names that settings do not have, or that are given twice."""
    _check_once(kind, names)
    for name in names:
        if name not in there:
            raise ConfigError(
                f"compare: the settings have no {kind[:-1]} {name!r}{meant(name, there)}; they have {', '.join(there)}"
            )


def _check_once(name: str, values: Sequence[Any]) -> None:
    """Refuse a list that holds something twice: its runs would count twice."""
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ConfigError(f"compare: {name} has {twice[0]!r} twice; give it once")


def _ranges(given: object) -> dict[str, Ranges]:
    """By name of a method, what may be tuned of it.

    Args:
        given: What the settings have as ``methods``.
    """
    return {
        name: {key: read_range(f"methods.{name}.{key}", value) for key, value in table(f"methods.{name}", its).items()}
        for name, its in table("methods", given).items()
    }
