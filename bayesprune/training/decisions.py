"""What a method decides, done to masks, weights and gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Decision, Method, Model, Needs, Run
from bayesprune.training.history import EpochRow
from bayesprune.training.masks import Masks


def needs_of(method: Method, run: Run) -> Needs:
    """What a method says in `Method.setup`.

    Args:
        method: The method.
        run: The run, which begins.

    Raises:
        ConfigError: if it says something else.
    """
    needs = method.setup(run)
    if not isinstance(needs, Needs):
        raise ConfigError(f"method {method.name!r}: setup must return Needs, got {type(needs).__name__}")
    return needs


def decision_of(method: Method, run: Run) -> Decision:
    """What a method says in `Method.decide`.

    Args:
        method: The method.
        run: The run.

    Raises:
        ConfigError: if it says something else, or notes what no row of the history has.
    """
    decision = method.decide(run)
    if not isinstance(decision, Decision):
        raise ConfigError(f"method {method.name!r}: decide must return a Decision, got {type(decision).__name__}")
    known = [field.name for field in fields(EpochRow)]
    unknown = sorted(decision.note.keys() - set(known))
    if unknown:
        raise ConfigError(f"Decision.note: a row has no field {unknown[0]!r}; it has {', '.join(known)}")
    return decision


@torch.no_grad()
def edit_weights(decision: Decision, masks: Masks, optimizer: torch.optim.Optimizer) -> None:
    """Lift masks, assign values and mask more, in this order.

    Args:
        decision: Says what.
        masks: The masks of the run.
        optimizer: Whose moments follow masks.

    Raises:
        ConfigError: for what does not fit the weights.
    """
    if decision.lift:
        masks.lift()
    if decision.assign:
        assign(masks.trained(), decision.assign)
    if decision.masks:
        masks.add(decision.masks)
    masks.on_weights(optimizer)


def assign(trained: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Let parameters take values.

    Args:
        trained: Everything that is trained, by name.
        values: By name, what it is from now on.

    Raises:
        ConfigError: for values of what is not trained, of another shape, or that are not finite; none is assigned then.
    """
    for name, value in values.items():
        weight = trained.get(name)
        if weight is None or value.shape != weight.shape or not bool(value.isfinite().all()):
            raise ConfigError(f"Decision.assign: {name!r} needs finite values, shaped as a weight of that name")
    for name, value in values.items():
        trained[name].copy_(value)


def switch_off(decision: Decision, masks: Masks, net: Model) -> bool:
    """Let θ be 0 of what a decision says, and of units of which masks leave nothing; returns whether there are any.

    Args:
        decision: Says what.
        masks: The masks of the run.
        net: The network.

    Raises:
        ConfigError: for a mask that is none of a gate's.
    """
    if not (decision.off or decision.masks):
        return False
    thetas = net.by_gate(net.theta.detach())
    for name, mask in decision.off.items():
        if name not in thetas or mask.dtype != torch.bool or mask.shape != thetas[name].shape:
            known = ", ".join(f"{gate} ({len(theta)})" for gate, theta in thetas.items())
            raise ConfigError(
                f"Decision.off: {name!r} needs a mask of bool, one entry a structure of the gate of that name; "
                f"the network has {known or 'none'}"
            )
    off = masks.empty_rows(net.net) if decision.masks else {}
    for name, mask in decision.off.items():
        off[name] = off[name] | mask.cpu() if name in off else mask.cpu()
    if not any(bool(mask.any()) for mask in off.values()):
        return False
    with torch.no_grad():
        for name, part in net.by_gate(net.theta).items():
            if name in off:
                part[off[name].to(part.device)] = 0.0
    return True
