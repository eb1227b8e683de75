"""Normalisation, by each channel's own statistics or by statistics of several entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import resolved
from bayesprune.ops.features import Step
from bayesprune.ops.registry import Operation, Parts, register

BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
STATISTICS = "which takes its zeros into statistics of others"


@torch.no_grad()
def _normalised(norm: Any, value: Tensor) -> Tensor:
    """A constant c comes out as β + γ (c − mean) / std in eval mode, and as β where batch statistics are used.

    Args:
        norm: The layer.
        value: Constants, one a channel.
    """
    if norm.running_mean is None or norm.running_var is None:
        value = value * 0
    else:
        value = (value - norm.running_mean.cpu().double()) / (norm.running_var.cpu().double() + norm.eps).sqrt()
    return value * norm.weight.cpu().double() + norm.bias.cpu().double() if norm.affine else value


def _batch_norm(call: Call) -> Step:
    seen = call.x.along(1)
    if seen is None:
        return call.wall(f"has its features along another dimension than {call.name} works along")
    return resolved(call, seen, call.module.num_features, lambda value: _normalised(call.module, value))


def _instance_norm(call: Call) -> Step:
    """Every channel of every example by its own statistics, where there are examples: without them, channels are."""
    rank = 2 + int(type(call.module).__name__[-2])
    if call.x.rank != rank or call.x.layout != "plain":
        return call.wall(f"reaches {call.name}, which takes tensors of {rank} dimensions for examples; {NEEDS_SHAPES}")
    return _batch_norm(call)


def _channels(norm: nn.Module) -> Parts:
    tensors = "weight", "bias", "running_mean", "running_var"
    return Parts(dict.fromkeys(tensors, ("out",)), {"num_features": "out"})


register(
    Operation(
        name="batch norm",
        modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        entries=_batch_norm,
        parts=_channels,
        kind="normalisation",
        memory="own",
        arguments=BATCH_NORM,
    )
)
register(
    Operation(
        name="instance norm",
        modules=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        entries=_instance_norm,
        parts=_channels,
        kind="normalisation",
        memory="own",
        arguments=BATCH_NORM,
    )
)
for _modules, _arguments in (
    ((nn.GroupNorm,), ("num_groups", "num_channels", "eps", "affine")),
    ((nn.LayerNorm,), ("normalized_shape", "eps", "elementwise_affine", "bias")),
    ((nn.RMSNorm,), ("normalized_shape", "eps", "elementwise_affine")),
    ((nn.LocalResponseNorm,), ("size", "alpha", "beta", "k")),
    ((nn.LogSoftmax, nn.Softmin), ("dim",)),
):
    _name = _modules[0].__name__.removesuffix("1d")
    register(Operation(name=_name, modules=_modules, wall=STATISTICS, arguments=_arguments))
