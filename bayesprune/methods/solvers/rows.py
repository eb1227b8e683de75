"""Thin layers in a row in place of one, and the factors of its weight that they hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

KEYS = ("last", "first", "depth")
"""Names of the layers of a row, as factors are ordered: of outputs, of inputs, and of places if there is one."""


def has_row(layer: nn.Module) -> bool:
    """Whether a row may take the place of a layer: no gate, no groups, trained weights."""
    plain = type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return plain and getattr(layer, "groups", 1) == 1 and layer.get_parameter("weight").requires_grad


def tensor_of(layer: nn.Module, form: str) -> Tensor:
    """A layer's weight as it is factorised: outputs by inputs, or by inputs by places; float64, on the host.

    Args:
        layer: The layer.
        form: ``"matrix"`` or ``"cp"``.
    """
    whole = layer.get_parameter("weight").detach().double().cpu()
    return whole.flatten(2) if form == "cp" and whole[0, 0].numel() > 1 else whole.flatten(1)


def row_of(layer: Any, factors: Sequence[Tensor]) -> nn.Sequential:
    """Layers in a row that give what their factors' product would, with the bias of the layer.

    Args:
        layer: The layer.
        factors: Of outputs, of inputs, and if there are three, of places.
    """
    kind, rank, bias = type(layer), factors[0].shape[1], layer.bias is not None
    if kind is nn.Linear:
        parts = {"first": kind(layer.in_features, rank, bias=False), "last": kind(rank, layer.out_features, bias)}
    else:
        seen = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        size = layer.kernel_size
        if len(factors) == 2:
            parts = {"first": kind(layer.in_channels, rank, size, bias=False, **seen)}
        else:
            parts = {"first": kind(layer.in_channels, rank, 1, bias=False)}
            parts["depth"] = kind(rank, rank, size, groups=rank, bias=False, **seen)
        parts["last"] = kind(rank, layer.out_channels, 1, bias=bias)
    row = nn.Sequential(OrderedDict(parts)).to(layer.weight)
    with torch.no_grad():
        for name, weight in weights_of(row, factors).items():
            row.get_parameter(name).copy_(weight)
        if bias:
            row.get_parameter("last.bias").copy_(layer.bias)
    return row.train(layer.training)


def factors_of(row: nn.Module) -> list[Tensor]:
    """The factors that a row holds, shapes ``(n, R)``, float64, on the host."""
    weights = {key: part.get_parameter("weight").detach() for key, part in row.named_children()}
    rows = [(key, weights[key].double().cpu().flatten(1)) for key in KEYS if key in weights]
    return [factor if key == "last" else factor.T for key, factor in rows]


def weights_of(row: nn.Module, factors: Sequence[Tensor]) -> dict[str, Tensor]:
    """By name in a row, the weights that hold factors.

    Args:
        row: The row.
        factors: As `factors_of` gives them.
    """
    found = {}
    for key, factor in zip(KEYS, factors, strict=False):
        held = row.get_parameter(f"{key}.weight")
        found[f"{key}.weight"] = (factor if key == "last" else factor.T).reshape(held.shape).to(held)
    return found
