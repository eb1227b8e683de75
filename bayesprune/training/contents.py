"""What a checkpoint holds, and whether it is what this run would have written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.errors import CheckpointError
from bayesprune.optim.trial import construct
from bayesprune.schema import (
    Mismatch,
    brief,
    dataclass_record,
    items,
    number,
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
from bayesprune.training.history import EpochRow
from bayesprune.training.trainer import Trainer
from bayesprune.types import Removal


def _anything(value: object, where: str) -> None:
    """What is compared with this run's own."""


def _generator(value: object, where: str) -> None:
    tensor((torch.uint8,), 1)(value, where)


CONTENTS = record(
    {
        "network": table(items(whole())),
        "model": items(_anything),
        "settings": items(_anything),
        "epochs": whole(1),
        "steps_per_epoch": whole(1),
        "num_data": whole(1),
        "epoch": whole(1),
        "step": whole(1),
        "branch_evaluations": whole(),
        "origin": table(tensor((torch.long,), 1)),
        "agreed": tensor((torch.long,), 1),
        "updates": _anything,
        "prices": _anything,
        "tensors": table(tensor(finite=True)),
        "likelihood": table(tensor()),
        "optimizer": record({"state": _anything, "param_groups": items(table(_anything))}),
        "history": record(
            {
                "rows": items(dataclass_record(EpochRow)),
                "removals": items(dataclass_record(Removal)),
                "branches_computed": number(finite=False),
                "thetas": table(tensor((torch.float32,), 2)),
            }
        ),
        "gates_rng": record({"host": _generator}, {"cuda": _generator}),
        "rng": items(items(_generator, 1, 2), 1),
    },
    {"run": optional(text)},
)


def read_state(path: Path) -> dict[str, Any]:
    """What `state_of` wrote to a checkpoint, whole and consistent in itself.

    Raises:
        CheckpointError: if the file is missing, no checkpoint, damaged, or does not hold what a checkpoint does.
    """
    state = read_checkpoint(path)
    with refused(path):
        CONTENTS(state, "")
        _check_record(state)
    return state


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Say of which checkpoint it is that something in it is not as it should be."""
    try:
        yield
    except Mismatch as error:
        raise CheckpointError(f"{path} does not hold what a checkpoint does: {error}; start the run anew") from error


def _check_record(state: Mapping[str, Any]) -> None:
    """Refuse counts and records that contradict each other."""
    whole(1, state["epochs"])(state["epoch"], "epoch")
    steps = state["epoch"] * state["steps_per_epoch"]
    require(state["step"] == steps, "step", f"{steps}, that of epoch {state['epoch']}", state["step"])
    history = state["history"]
    require(len(history["rows"]) == state["epoch"], "history.rows", f"{state['epoch']} rows", history["rows"])
    thetas = history["thetas"]
    for name, theta in thetas.items():
        where = f"history.thetas.{name}"
        require(len(theta) == state["epoch"] + 1, where, f"{state['epoch'] + 1} rows", theta)
        _check_probabilities(theta, where)
    for name, origin in state["origin"].items():
        where = f"origin.{name}"
        require(name in thetas, where, "the name of a gate", name)
        size = thetas[name].shape[1]
        ascending = bool((origin.diff() > 0).all()) and bool(((origin >= 0) & (origin < size)).all())
        require(ascending, where, f"ascending indices below {size}", origin.tolist()[:8])


def check_fits(run: Trainer, state: Mapping[str, Any], smaller: nn.Module) -> None:
    """Refuse what does not fit a run and the network that is left of it.

    Args:
        run: The run, which has not begun.
        state: From `read_state`, of the same network, settings and data.
        smaller: The network without the structures that the checkpoint's is without.

    Raises:
        Mismatch: where something does not fit.
    """
    sizes = {name: path.shape[1] for name, path in state["history"]["thetas"].items()}
    require(sizes == run.start_gates, "history.thetas", brief(run.start_gates), sizes)
    own = smaller.state_dict()
    shaped(own)(state["tensors"], "tensors")
    for name in run.start_gates:
        if f"{name}.theta" in own:
            _check_probabilities(state["tensors"][f"{name}.theta"], f"tensors.{name}.theta")
    shaped(run.net.likelihood.state_dict())(state["likelihood"], "likelihood")
    gates = sum(len(origin) for origin in state["origin"].values())
    require(len(state["agreed"]) == gates, "agreed", f"{gates} counts", state["agreed"])
    run.updates.schema(gates)(state["updates"], "updates")
    run.prices.schema()(state["prices"], "prices")
    before, after = (dict(net.named_parameters()) for net in (run.net.net, smaller))
    likelihoods = {name: p for name, p in run.net.trained().items() if name not in before}
    _check_optimizer(run, state["optimizer"], {**after, **likelihoods})
    for where, values in (("gates_rng", state["gates_rng"].values()), ("rng", [states[0] for states in state["rng"]])):
        for value in values:
            _check_generator(value, where)


def _check_optimizer(run: Trainer, state: Mapping[str, Any], left: Mapping[str, Tensor]) -> None:
    """Refuse the state of an optimiser with other settings, or of other parameters than are ``left`` of its own."""
    own, theirs = run.optimizer.param_groups, state["param_groups"]
    require(len(theirs) == len(own), "optimizer.param_groups", f"{len(own)} groups", theirs)
    names = {id(parameter): name for name, parameter in run.net.trained().items()}
    parameters: list[Tensor] = []
    for place, (mine, found) in enumerate(zip(own, theirs, strict=True)):
        where = f"optimizer.param_groups[{place}]"
        start = len(parameters)
        parameters += [left[names[id(p)]] for p in mine["params"] if names[id(p)] in left]
        numbers = list(range(start, len(parameters)))
        require(found.get("params") == numbers, f"{where}.params", brief(numbers), found.get("params"))
        number(0)(found.get("lr"), f"{where}.lr")
        for key in mine.keys() - {"lr", "params"}:
            require(found.get(key, mine[key]) == mine[key], f"{where}.{key}", brief(mine[key]), found.get(key))
    require(isinstance(state["state"], dict), "optimizer.state", "a table", state["state"])
    first = _first_state(run)
    for key, entries in state["state"].items():
        where = f"optimizer.state[{brief(key)}]"
        whole(0, len(parameters) - 1)(key, "optimizer.state")
        table(_anything)(entries, where)
        for name in first.keys() | entries.keys():
            _check_entry(entries.get(name), first.get(name), parameters[key].detach(), f"{where}.{name}")


def _first_state(run: Trainer) -> dict[str, Any]:
    """What the run's kind of optimiser keeps of a parameter of more than one entry after one step."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.ones(2, 3)
    optimizer = construct(run.settings.optimizer, [parameter], lr=run.settings.lr, weight_decay=0.0)
    optimizer.step()
    return dict(optimizer.state[parameter])


def _check_entry(value: object, first: object, parameter: Tensor, where: str) -> None:
    """Refuse what an optimiser does not keep of ``parameter``, by what it keeps after a first step."""
    if not isinstance(value, Tensor):
        require(not isinstance(first, Tensor), where, "a tensor", value)
        optional(number(finite=False))(value, where)
        return
    tensor()(value, where)
    if isinstance(first, Tensor) and first.dim() == 0:
        require(value.dim() == 0, where, "a single number", value)
    elif isinstance(first, Tensor) or value.dim() > 0:
        require(value.shape == parameter.shape and value.is_floating_point(), where, brief(parameter), value)


def _check_probabilities(theta: Tensor, where: str) -> None:
    require(bool(((theta >= 0) & (theta <= 1)).all()), where, "probabilities from 0 to 1", theta.flatten()[:4].tolist())


def _check_generator(value: Tensor, where: str) -> None:
    """Refuse what is no state of a generator of random numbers; one of another device is looked at only in size."""
    if len(value) != len(torch.get_rng_state()):
        require(len(value) == 16, where, "the state of a generator of random numbers", value)
        return
    try:
        torch.Generator().set_state(value.clone())
    except RuntimeError as error:
        raise Mismatch(where, "the state of a generator of random numbers", value) from error
