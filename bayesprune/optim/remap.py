"""Carry an optimiser's state over to a smaller network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.types import IndexMap


@checked_arguments
def remap_optimizer(
    optimizer: torch.optim.Optimizer, old: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter], index: IndexMap
) -> None:
    """Let ``optimizer`` go on with the parameters of the smaller network, its per-entry state following the survivors.

    State tensors shaped as their parameter (momentum, first and second moments) are selected as the parameter was;
    others (step counts) are kept. For element-wise optimisers a step then commutes with the removal of entries that
    are off.

    Args:
        optimizer: An optimiser over (some of) the parameters ``old``; edited in place.
        old: Parameters before the removal, by name.
        new: Parameters after it, by name.
        index: Which entries were kept.

    Raises:
        ConfigError: if the optimiser holds a parameter that is not in ``old``; nothing is changed then.
    """
    name_of = {id(p): name for name, p in old.items()}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if id(parameter) not in name_of:
            raise ConfigError(
                f"remap_optimizer: the optimiser holds a parameter of shape {tuple(parameter.shape)} that is not in "
                "the old network; pass as old the parameters it was built with, by name"
            )
    for group in optimizer.param_groups:
        survivors = []
        for parameter in group["params"]:
            state = optimizer.state.pop(parameter, {})
            name = name_of[id(parameter)]
            if name not in new:
                continue
            survivors.append(new[name])
            if state:
                optimizer.state[new[name]] = {
                    key: index.select(name, value)
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                    else value
                    for key, value in state.items()
                }
        group["params"] = survivors
