"""Convolutions in groups: a group goes as a whole, and from those that are left go equal numbers.

The outputs of a group are made of its inputs alone. What is left is a convolution in groups too as long as all of them
have as many filters, and read inputs at the same places: structures that are off elsewhere stay, as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesprune.ops.call import Call
from bayesprune.ops.features import Features, Flow, Stay, Step
from bayesprune.ops.registry import Role


def has_groups(module: Any) -> bool:
    """Whether a layer is a convolution whose outputs are not made of all of its inputs."""
    return bool(getattr(module, "groups", 1) > 1)


def is_depthwise(module: Any) -> bool:
    """Whether a layer is a convolution with one filter for each channel."""
    return has_groups(module) and module.groups == module.in_channels == module.out_channels


def in_groups(module: Any) -> bool:
    """Whether a layer is a convolution in groups that has other than one filter for each channel."""
    return has_groups(module) and not is_depthwise(module)


@torch.no_grad()
def grouped(call: Call) -> Step:
    """One call; constants that are left go into the outputs of a group if it is given nothing else."""
    module, x = call.module, call.known[call.source]
    rank = module.weight.dim()
    if x is not None and (x.axis != 1 or x.rank not in (None, rank)):
        return call.wall(f"has its features along another dimension than {call.name} reads")
    if not call.following.layers:
        return Step() if x is None else call.wall(f"reaches {call.name}, a convolution in groups")
    size, ids = module.groups, call.following.fresh(module.out_channels)
    made = torch.arange(len(ids)).view(size, -1)
    value = torch.full((len(ids),), torch.nan, dtype=torch.float64)
    if x is None:
        return Step(Features(ids, value, 1, rank), whole=partial(_whole, module, None, ids))
    read = x.entries(module.in_channels, call.name)
    silent = (x.value[read].view(size, -1) == 0).all(1).repeat_interleave(made.shape[1])
    value[silent] = 0.0 if module.bias is None else module.bias.cpu().double()[silent]
    pairs = [(a, b) for a in read.view(size, -1).T for b in made.T]
    flows = [Flow(call.source, a, b) for a, b in pairs]
    constant = x.ids[~x.unknown & (x.value != 0)]
    holds = [constant] if len(constant) else []
    return Step(Features(ids, value, 1, rank), flows, holds=holds, whole=partial(_whole, module, x.ids[read], ids))


def _whole(module: Any, given: Tensor | None, made: Tensor, stay: Stay) -> Tensor:
    """The ids that stay with those that do.

    Args:
        module: The convolution.
        given: The ids of its inputs; ``None`` for inputs that all stay.
        made: Those of its outputs.
        stay: Which ids stay.
    """
    inputs = torch.ones(module.in_channels, dtype=torch.bool) if given is None else stay(given)
    inputs, outputs = _fitting(module, inputs, stay(made))
    return made[outputs] if given is None else torch.cat([given[inputs], made[outputs]])


def _fitting(module: Any, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Which inputs and outputs stay if these must, so that what is left are groups of equal sizes.

    Args:
        module: The convolution.
        inputs: Which inputs must stay, bool.
        outputs: Which outputs.
    """
    rows, places = (inputs, outputs) if module.transposed else (outputs, inputs)
    rows, places = rows.view(module.groups, -1), places.view(module.groups, -1)
    alive = (rows.any(1) | places.any(1))[:, None]
    places = alive & places.any(0)
    count = rows.sum(1)
    missing = count.max() - count[:, None]
    rows = rows | (alive & ((~rows).cumsum(1) <= missing))
    rows, places = rows.flatten(), places.flatten()
    return (rows, places) if module.transposed else (places, rows)


def cut_groups(module: Any, inputs: Tensor, outputs: Tensor) -> Mapping[Role, Tensor]:
    """Have fewer groups, if there are groups of several places; gives which places within a group stay, bool.

    Args:
        module: The convolution.
        inputs: Which inputs stay, bool.
        outputs: Which outputs.
    """
    if not in_groups(module):
        return {}
    places = (outputs if module.transposed else inputs).view(module.groups, -1)
    module.groups = int(places.any(1).sum())
    return {"place": places.any(0)}
