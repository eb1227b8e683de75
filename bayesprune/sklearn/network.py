"""The network behind the estimators: gates on inputs and hidden units, ReLU between."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers.gate import INITIAL_THETA
from bayesprune.pruning import compact, shrink

INPUTS = "inputs"
"""Name of the gate on the inputs."""


def gated_mlp(rows: int, hidden: Sequence[int], outputs: int, absent: NDArray[np.bool_]) -> nn.Module:
    """A multilayer perceptron with a gate on every input that is present and on every hidden unit.

    At the start no more inputs are on than half as many as there are rows: more of them fit all rows, noise and all,
    and then each has evidence of its own.

    Args:
        rows: Number of examples to train on.
        hidden: Widths of the hidden layers; none for a linear model.
        outputs: Number of outputs.
        absent: Inputs to leave out, shape ``(d,)``, not all of them.

    Shape:
        input ``(B, d)``, output ``(B, outputs)``.
    """
    theta = min(INITIAL_THETA, rows / (2 * len(absent)))
    parts: OrderedDict[str, nn.Module] = OrderedDict({INPUTS: layers.Gate(len(absent), theta=theta)})
    width = len(absent)
    for number, units in enumerate(hidden, 1):
        parts[f"hidden{number}"] = layers.Linear(width, units, gate="unit", dtype=torch.float32)
        parts[f"relu{number}"] = nn.ReLU()
        width = units
    parts["outputs"] = nn.Linear(width, outputs, dtype=torch.float32)
    net = nn.Sequential(parts).float()
    return shrink(net, {INPUTS: torch.from_numpy(absent)})[0] if absent.any() else net


def plain_network(net: nn.Module, inputs: StandardScaler, targets: StandardScaler | None) -> nn.Module:
    """What `compact` leaves of a trained network, with the scaling of inputs and targets as part of it.

    Args:
        net: The gated network, of standardised inputs and targets.
        inputs: How inputs are standardised.
        targets: How targets are; ``None`` where outputs are not to be scaled back.

    Returns:
        A plain network, float32, in eval mode: input ``(B, d)`` as in the table, output ``(B, outputs)``.
    """
    scaling = nn.BatchNorm1d(len(inputs.scale_), eps=0.0, affine=False)
    scaling.running_mean, scaling.running_var = _tensor(inputs.mean_), _tensor(inputs.scale_).square()
    parts = OrderedDict(scaling=scaling, network=copy.deepcopy(net).float())
    if targets is not None:
        back = nn.Linear(len(targets.scale_), len(targets.scale_))
        back.weight.data, back.bias.data = _tensor(targets.scale_).diag(), _tensor(targets.mean_)
        parts["units"] = back
    return compact(nn.Sequential(parts).eval())


def _tensor(values: NDArray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
