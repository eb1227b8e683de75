"""Dropout."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.layers import SpectralDropout
from bayesprune.layers.rate import DropoutRate
from bayesprune.ops.call import Call
from bayesprune.ops.entrywise import same, zeros_alone
from bayesprune.ops.features import Step
from bayesprune.ops.registry import Operation, register

ARGUMENTS = ("p", "inplace")


def _dropout(call: Call) -> Step:
    """Zeros stay zeros; another constant is a random number while training."""
    off = call.module is not None and call.module.p == 0
    return same(call.source, call.x, call.x.value if off else zeros_alone(call.x.value))


def _draws(dropout: Any) -> bool:
    return dropout.p > 0


register(
    Operation(
        name="dropout",
        modules=(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        entries=_dropout,
        pointwise=True,
        memory="view",
        random=_draws,
        arguments=ARGUMENTS,
    )
)
register(
    Operation(
        name="dropout, as a function",
        functions=(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout),
        entries=_dropout,
        memory="view",
        files=True,
    )
)
register(
    Operation(
        name="rate of dropout",
        modules=(DropoutRate,),
        entries=lambda call: Step(),
        takes="anything",
        random=_draws,
        gives="number",
    )
)
register(
    Operation(
        name="alpha dropout",
        modules=(nn.AlphaDropout, nn.FeatureAlphaDropout),
        random=_draws,
        arguments=ARGUMENTS,
    )
)


def _spectral(call: Call) -> Step:
    """Over space every map stays one of its own, and one of zeros stays so; along channels all are mixed."""
    x = call.x
    if call.module.axis != "space" or x.axis != 1 or x.layout != "plain" or x.rank == 2:  # type: ignore[union-attr]
        return call.wall("reaches spectral dropout, which mixes them")
    return same(call.source, x, zeros_alone(x.value))


register(
    Operation(
        name="spectral dropout",
        modules=(SpectralDropout,),
        entries=_spectral,
        random=lambda module: module.p > 0,
    )
)


def _drop_path(call: Call) -> Step:
    """Whole branches of some examples are zero while training, and nothing is in eval mode."""
    return same(call.source, call.x, zeros_alone(call.x.value))


def _drops(module: Any) -> bool:
    return bool(getattr(module, "drop_prob", getattr(module, "p", 0)))


DROP_PATH = register(
    Operation(
        name="stochastic depth",
        foreign=(
            "torchvision.ops.stochastic_depth.StochasticDepth",
            "torchvision.ops.stochastic_depth.stochastic_depth",
            "timm.layers.drop.DropPath",
        ),
        entries=_drop_path,
        pointwise=True,
        memory="view",
        random=_drops,
    )
)
"""A branch that is left out at random, which is there in eval mode."""
