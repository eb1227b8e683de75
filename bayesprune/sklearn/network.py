"""The network behind the estimators: gates on inputs and hidden units, ReLU between."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers.gate import INITIAL_THETA
from bayesprune.pruning import compact, shrink

INPUTS = "inputs"
"""Name of the gate on the inputs."""
Moments = tuple[Tensor, Tensor]
"""Location and scale of columns."""


def gated_mlp(
    rows: int,
    hidden: Sequence[int],
    outputs: int,
    absent: NDArray[np.bool_],
    units: Moments | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """A multilayer perceptron with a gate on every input that is present and on every hidden unit.

    At the start no more inputs are on than half as many as there are rows: more of them fit all rows, noise and all,
    and then each has evidence of its own.

    Args:
        rows: Number of examples to train on.
        hidden: Widths of the hidden layers; none for a linear model.
        outputs: Number of outputs.
        absent: Inputs to leave out, shape ``(d,)``, not all of them.
        units: Location and scale of the outputs, where they have any.
        groups: Columns that share a gate; all inputs are then present.

    Shape:
        input ``(B, d)``, standardised, output ``(B, outputs)``.
    """
    width = len(absent)
    theta = min(INITIAL_THETA, rows / (2 * width))
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        standardise=layers.Standardise(torch.zeros(width), torch.ones(width))
    )
    parts[INPUTS] = layers.Gate(width, theta=theta) if groups is None else layers.ColumnGroups(groups, theta=theta)
    for number, size in enumerate(hidden, 1):
        parts[f"hidden{number}"] = layers.Linear(width, size, gate="unit", dtype=torch.float32)
        parts[f"relu{number}"] = nn.ReLU()
        width = size
    parts["outputs"] = nn.Linear(width, outputs, dtype=torch.float32)
    if units is not None:
        parts["units"] = layers.Units(*units)
    net = nn.Sequential(parts).float()
    return shrink(net, {INPUTS: torch.from_numpy(absent)})[0] if absent.any() and groups is None else net


def inclusion(net: nn.Module, gates: Mapping[str, Tensor], absent: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The inclusion probability of every column, shape ``(d,)``, of those that share a gate the same.

    Args:
        net: What `gated_mlp` made.
        gates: Probabilities by name of the gated module.
        absent: Inputs that were left out, shape ``(d,)``.
    """
    found = np.zeros(len(absent))
    if isinstance(net.inputs, layers.ColumnGroups):
        parts = [gates[f"{INPUTS}.gates.{place}"] for place in range(len(net.inputs.sizes))]
        for members, part, columns in zip(net.inputs.members, parts, net.inputs.columns(), strict=True):
            found[columns.numpy()] = part.repeat_interleave(len(columns) // len(members)).numpy()
    else:
        found[~absent] = gates[INPUTS].numpy()
    return found


def set_units(net: nn.Module, inputs: Moments, outputs: Moments | None) -> None:
    """Let a network that was trained on standardised numbers take and give those of the table, in place.

    Args:
        net: What `gated_mlp` makes, float64.
        inputs: Location and scale of the inputs.
        outputs: Those of the outputs; ``None`` where they have no units.
    """
    net.standardise = layers.Standardise(*inputs).to(torch.float64)
    if outputs is not None:
        net.units = layers.Units(*outputs).to(torch.float64)


def plain_network(net: nn.Module) -> nn.Module:
    """What `compact` leaves of a network in the units of the table, float32, in eval mode."""
    standardise = net.get_submodule("standardise")
    assert isinstance(standardise, layers.Standardise)
    return compact(copy.deepcopy(net).float().eval(), example_input=torch.zeros(1, len(standardise.scale)))
