"""Convolutions: ordinary, in groups, depthwise and transposed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bayesprune.layers import Conv1d, Conv2d, ConvTranspose2d, NormalConv1d, NormalConv2d
from bayesprune.ops.call import Call
from bayesprune.ops.dense import dense, fold, is_normal, layer, weighted
from bayesprune.ops.entrywise import resolved
from bayesprune.ops.features import Features, Step
from bayesprune.ops.grouped import cut_groups, grouped, in_groups, is_depthwise
from bayesprune.ops.registry import Operation, Parts, Role, register

ORDINARY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias",
            "padding_mode")  # fmt: skip
TRANSPOSED = (*ORDINARY[:5], "output_padding", "groups", "bias", "dilation", "padding_mode")


def is_transposed(module: Any) -> bool:
    """Whether a layer is a transposed convolution."""
    return bool(module.transposed)


def folds_constants(module: Any) -> bool:
    """Whether a constant input entry of a convolution adds the same to every output position."""
    if is_transposed(module):
        return False
    if module.padding_mode != "zeros" or module.padding == "valid":
        return True
    return module.padding != "same" and not any(module.padding)


@layer
def _convolution(call: Call) -> Step:
    module: Any = call.module
    if is_depthwise(module):
        return _depthwise(call)
    if in_groups(module):
        return grouped(call)
    x, rank = call.known[call.source], module.weight.dim()
    seen = x if x is not None and x.axis == 1 and x.rank in (None, rank) else None
    spoilt = ""
    if is_transposed(module):
        spoilt = f"{call.name} does not spread the constant that is left evenly, so that no bias can take it up"
    elif not folds_constants(module):
        spoilt = f"{call.name} pads with zeros, so that the constant that is left does not fold into its bias"
    return dense(call, seen, (module.in_channels, module.out_channels), (1, rank), spoilt)


@torch.no_grad()
def _depthwise(call: Call) -> Step:
    """One filter for each channel: a constant c comes out as c Σw + b where the borders do not matter."""
    x, module = call.known[call.source], call.module
    if x is None:
        return Step()
    if x.axis != 1 or x.rank not in (None, module.weight.dim()):
        return call.wall(f"has its features along another dimension than {call.name} reads")
    weight = module.weight.cpu().double().flatten(1).sum(1)
    bias = torch.zeros(len(weight), dtype=torch.float64) if module.bias is None else module.bias.cpu().double()
    folds = torch.tensor(folds_constants(module))
    step = resolved(
        call, x, len(weight), lambda value: torch.where((value == 0) | folds, value * weight + bias, torch.nan)
    )
    step.out = Features(step.out.ids, step.out.value, 1, module.weight.dim())  # type: ignore[union-attr]
    return step


def _parts(module: nn.Module) -> Parts:
    if is_depthwise(module):
        return weighted(module, ("out",), dict.fromkeys(("groups", "in_channels", "out_channels"), "out"))
    roles: tuple[Role, ...] = ("in", "out") if is_transposed(module) else ("out", "in")
    roles = (roles[0], "place") if in_groups(module) else roles
    return weighted(module, roles, {"out_channels": "out", "in_channels": "in"})


register(
    Operation(
        name="convolution",
        modules=(nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1d, Conv2d, NormalConv1d, NormalConv2d),
        entries=_convolution,
        takes="anything",
        parts=_parts,
        cut=cut_groups,
        fold=fold,
        memory="own",
        random=is_normal,
        arguments=ORDINARY,
    )
)
register(
    Operation(
        name="transposed convolution",
        modules=(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, ConvTranspose2d),
        entries=_convolution,
        takes="anything",
        parts=_parts,
        cut=cut_groups,
        memory="own",
        arguments=TRANSPOSED,
    )
)
