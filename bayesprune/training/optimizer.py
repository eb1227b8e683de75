"""The optimiser of the weights, as `Settings` name it, and whether a state read from a file can be its."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.infer import BayesianNet
from bayesprune.methods.protocol import Method, Model
from bayesprune.methods.svi.settings import Settings
from bayesprune.optim.trial import check_optimizer, construct
from bayesprune.schema import brief, number, optional, require, table, tensor, whole


def build_optimizer(
    net: Model, method: Method, settings: Settings, factors: Mapping[str, float], prune: bool
) -> torch.optim.Optimizer:
    """The optimiser of everything that is trained but θ; of nothing, where gates alone are learned.

    Args:
        net: The network, on its device.
        method: The method, whose own parameters are a group of their own.
        settings: How to train.
        factors: What `rate_factors` gave as the run began.
        prune: Whether structures are removed while it is trained.

    Raises:
        ConfigError: for an optimiser that a trial refuses, see `check_optimizer`.
    """
    groups = _by_factor(net, net.parameter_groups(), factors)
    own = list(method.parameters())
    if own:
        groups.append({"params": own, "weight_decay": 0.0})
    groups = groups or [{"params": []}]
    mine = [p for group in groups for p in group["params"]]
    extra: dict[str, Any] = {"fused": True} if settings.optimizer is torch.optim.Adam else {}  # known to keep the laws
    if not extra:
        decays = any(group.get("weight_decay", 0.0) > 0 for group in groups if group["params"])
        dims = {p.dim() for p in mine}
        check_optimizer(settings.optimizer, dims, net.theta.device, decays=decays, shrinks=prune and net.num_gates > 0)
    parameters = groups[0]["params"] if len(groups) == 1 and mine else groups
    return construct(settings.optimizer, parameters, lr=settings.lr, **_decay(net), **extra)


def rate_factors(net: Model, decay: float) -> dict[str, float]:
    """By name of a weight, the factor on its learning rate; none where all have the same.

    A layer is a module that holds a weight of two dimensions or more; what follows it without, a normalisation, say,
    counts as part of it.

    Args:
        net: The network.
        decay: The factor for every layer that comes behind.
    """
    if decay == 1:
        return {}
    depths, layers = {}, set[str]()
    for name, weight in net.weights().items():
        if weight.dim() > 1:
            layers.add(name.rpartition(".")[0])
        depths[name] = max(len(layers), 1)
    return {name: decay ** (len(layers) - depth) for name, depth in depths.items()}


def _by_factor(net: Model, groups: list[dict[str, Any]], factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """The groups, each cut into those of one factor; also into those of which a smaller network has nothing left.

    Args:
        net: The network.
        groups: For an optimiser.
        factors: By name of a weight, the factor on its learning rate.
    """
    own = {id(weight): factors.get(name, 1.0) for name, weight in net.weights().items()}
    return [
        {
            **group,
            "params": [p for p in group["params"] if own.get(id(p), 1.0) == factor],
            "lr_factor": group.get("lr_factor", 1.0) * factor,
        }
        for group in groups
        for factor in sorted({1.0, *factors.values()})
    ]


def _decay(net: Model) -> dict[str, float]:
    """The weight decay that a posterior asks for, of which a plain network has none."""
    return {"weight_decay": net.weight_precision / net.num_data} if isinstance(net, BayesianNet) else {}


def prepare_step(optimizer: torch.optim.Optimizer, rate: float, new: torch.optim.Optimizer | None = None) -> None:
    """Set the learning rate of a step, times each group's own factor.

    Args:
        optimizer: The optimiser, edited in place.
        rate: The learning rate.
        new: One of the same parameters that has taken no step, if the optimiser is to forget what it kept of them: some
            keep numbers before their first step.
    """
    if new is not None:
        optimizer.state.clear()
        optimizer.state.update(new.state)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


def check_state(
    net: Model,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    names: Mapping[int, str],
    left: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Refuse the state of an optimiser with other settings, or of other parameters than are left of its own.

    Args:
        net: The network that is trained.
        optimizer: The run's own, which has taken no step.
        settings: By which it was made.
        names: By ``id`` of its parameters, their names.
        left: By name, what is left of everything that is trained.
        state: A table of ``state`` and ``param_groups``.

    Raises:
        Mismatch: where something does not fit.
    """
    own, theirs = optimizer.param_groups, state["param_groups"]
    require(len(theirs) == len(own), "optimizer.param_groups", f"{len(own)} groups", theirs)
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
    first = _first_state(net, settings)
    for key, entries in state["state"].items():
        where = f"optimizer.state[{brief(key)}]"
        whole(0, len(parameters) - 1)(key, "optimizer.state")
        table(lambda value, where: None)(entries, where)
        for name in first.keys() | entries.keys():
            _check_entry(entries.get(name), first.get(name), parameters[key].detach(), f"{where}.{name}")


def _first_state(net: Model, settings: Settings) -> dict[str, Any]:
    """What this kind of optimiser keeps of a parameter of more than one entry after one step."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.ones(2, 3)
    optimizer = construct(settings.optimizer, [parameter], lr=settings.lr, **dict.fromkeys(_decay(net), 0.0))
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
